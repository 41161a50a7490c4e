package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// lowerPriority replaces this process with another role of this program at a lower
// priority.
func lowerPriority(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a thread keeps its priority across exec(2)
	const low = 10
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, low); err != nil {
		return fmt.Errorf("priority: %w", err)
	}
	return syscall.Exec(self, slices.Concat([]string{self}, args), os.Environ())
}

// runMembers is one member of each of a number of groups until ctx ends. It
// acknowledges every event.
func runMembers(ctx context.Context, url, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	consuming, consumeCtx := errgroup.WithContext(ctx)
	for i := range n {
		client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{url}, ClientID: "ada"})
		if err != nil {
			return err
		}
		defer client.Close()
		consuming.Go(func() error {
			for d, err := range client.Consume(consumeCtx, groupName(i)) {
				if consumeCtx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				d.Ack()
			}
			return nil
		})
	}
	fmt.Println(roleReady + url)
	return consuming.Wait()
}
