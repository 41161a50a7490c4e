//go:build unix

// Command client subscribes to a stream with client/go, and prints the processor
// time that client/go used to turn the events into Go values. bench/js starts it
// and compares it with JavaScript clients.
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
		log.Fatal("usage: client URL EVENTS")
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
	for e, err := range auction.Subscribe(ctx, ganglion.FromStart(), ganglion.WithBuffer(want+1)) { // the server of the benchmark does not send pages
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

// used returns the processor time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
