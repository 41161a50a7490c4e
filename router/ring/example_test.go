package ring_test

import (
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/ring"
)

func Example() {
	r := ring.New([]string{"n3", "n1", "n2"})
	auction := eventstore.StreamID{Type: "auction", ID: "42"}

	owner, _ := r.Owner(auction)
	fmt.Println("owner:", owner)

	// The owner does not answer. Find the next one.
	next, _ := r.Without(owner).Owner(auction)
	fmt.Println("next:", next)

	// Another node learned of the members in another order.
	fmt.Println("agree:", r.Signature() == ring.New([]string{"n1", "n2", "n3"}).Signature())

	_, ok := ring.New(nil).Owner(auction)
	fmt.Println("an empty ring has an owner:", ok)
	// Output:
	// owner: n3
	// next: n2
	// agree: true
	// an empty ring has an owner: false
}
