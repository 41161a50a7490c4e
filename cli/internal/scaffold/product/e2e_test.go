package main

import (
	"context"
	"testing"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/node"
)

// start runs three nodes on a log in a folder until stop is called or the test ends.
// It returns a client of one of them.
func start(t *testing.T, dir string) (client *ganglion.Client, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	clients, ended := make(chan node.Clients, 3), make(chan struct{})
	go func() {
		defer close(ended)
		config := node.Config{Catalog: &Catalog, Store: dir, Listen: "127.0.0.1:0", Clients: func(c node.Clients) { clients <- c }}
		if err := node.RunDev(ctx, config, 3); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	select {
	case c := <-clients:
		client, err := c.Connect(ctx, "ada", nil)
		if err != nil {
			t.Fatal(err)
		}
		return client, stop
	case <-ended:
		t.FailNow()
		return nil, nil
	}
}

// lists waits until an order has a status on the board.
func lists(ctx context.Context, t *testing.T, client *ganglion.Client, id string, want OrderStatus) {
	t.Helper()
	for result, err := range (ganglion.Query[Orders, BoardLine]{Name: "orders"}).Live(ctx, client, Orders{Status: want}) {
		if err != nil {
			t.Fatalf("waiting for order %s to be %s: %v", id, want, err)
		}
		for _, row := range result.Rows {
			if row.Key == id {
				return
			}
		}
	}
}

func TestKitchenCooksInOrderAcrossARestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	client, stop := start(t, dir)
	for _, id := range []string{"1", "2", "3"} {
		if _, err := client.Aggregate("order", id).Send(ctx, "place", PlaceOrder{Dish: "soup"}); err != nil {
			t.Fatal(err)
		}
	}
	lists(ctx, t, client, "2", OrderCooking)
	lists(ctx, t, client, "3", OrderWaiting)
	stop()

	client, _ = start(t, dir)
	if _, err := client.Aggregate("order", "1").Send(ctx, "finish", FinishOrder{}); err != nil {
		t.Fatal(err)
	}
	lists(ctx, t, client, "3", OrderCooking)
}
