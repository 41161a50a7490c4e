//go:build unix

// Command bench subscribes to a stream and says how much processor time its
// events took, once an application has them as Go values. It stands beside the
// clients in JavaScript in client/js/bench, which starts it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"syscall"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

type bidPlaced struct {
	Bidder string
	Amount int
	Note   string
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: bench URL EVENTS")
	}
	want, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{os.Args[1]}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	var begun time.Duration
	var got, sum int
	auction := ganglion.Type[any, bidPlaced]{Name: "auction"}.Aggregate(client, "42")
	for e, err := range auction.Subscribe(ctx, ganglion.FromStart(), ganglion.WithBuffer(want+1)) { // the server of the bench does not page
		if err != nil {
			log.Print(err)
			return
		}
		if got++; got == 1 {
			begun = used()
		}
		if sum += e.Data.Amount; got == want {
			break
		}
	}
	fmt.Println((used() - begun).Microseconds(), sum)
}

// used is the processor time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
