package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// paced calls do perSecond times per second for d, from 50 callers. The clock paces
// the callers, not the replies. n counts the calls of a caller.
func paced(ctx context.Context, perSecond int, d time.Duration, do func(ctx context.Context, caller, n int) error) error {
	const callers = 50
	begun, every := time.Now(), time.Second*callers/time.Duration(perSecond)
	working, ctx := errgroup.WithContext(ctx)
	for c := range callers {
		working.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				next := begun.Add(time.Duration(n)*every + every*time.Duration(c)/callers)
				if next.Sub(begun) >= d {
					break
				}
				time.Sleep(time.Until(next))
				if err := do(ctx, c, n); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return working.Wait()
}
