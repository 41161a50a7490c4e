package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/internal/stomp"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// BenchmarkFanOut delivers events to 1,000 sessions on one stream, in memory:
// the gateway's own cost of a delivery, without the kernel's.
func BenchmarkFanOut(b *testing.B) {
	for _, protocol := range []string{frame.Subprotocol, "v12.stomp"} {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d", protocol, batch), func(b *testing.B) { fanOut(b, protocol, 1000, batch) })
		}
	}
}

func fanOut(b *testing.B, protocol string, sessions, batch int) {
	g, err := gateway.New(gateway.Config{
		Node: "n1", Catalog: catalog{}, Store: emptyStore{}, Router: newOwner(emptyStore{}), Auth: gateway.Development(),
	})
	if err != nil {
		b.Fatal(err)
	}
	g.Begin(0)
	network := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: g.Handler()}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(network) })
	running.Go(func() { _ = g.Run(ctx) })
	for range sessions {
		var raw net.Conn
		transport := &http.Transport{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
			raw, err = network.dial(ctx, n, a)
			return raw, err
		}}
		c, _, err := dialWith(b, "http://gateway", &http.Client{Transport: transport}, "Sec-WebSocket-Protocol", protocol)
		if err != nil {
			b.Fatal(err)
		}
		if protocol == frame.Subprotocol {
			c.send(`{"op":"hello","id":"h","client":"ada","subscriptions":[{"id":"s","stream":"auction/1"}]}`)
			want[frame.Welcome](c)
			want[frame.Subscribed](c)
			want[frame.Live](c)
		} else {
			s := &stomper{t: b, conn: c.conn}
			s.decoder.Limits = stomp.Limits{Headers: 100, HeaderBytes: 1 << 16}
			s.send("CONNECT;accept-version:1.2;login:ada", "SUBSCRIBE;id:sub-0;destination:/topic/auction/1;receipt:r")
			s.want("CONNECTED")
			s.want("RECEIPT")
		}
		running.Go(func() { _, _ = io.Copy(io.Discard, raw) }) // reads without a WebSocket library
	}
	stream := eventstore.StreamID{Type: "auction", ID: "1"}
	data := []byte(`{"bidder":"ada","amount":12500}`)
	var position eventstore.Position
	delivered := g.Stats().Delivered
	b.ReportAllocs()
	b.ResetTimer()
	began := time.Now()
	for range b.N {
		commits := make([]eventstore.Commit, batch)
		for i := range commits {
			position++
			commits[i] = eventstore.Commit{
				Position: position, Stream: stream, Version: eventstore.Version(position), Key: "0198f6a1-0b1c-7def-8123-456789abcdef",
				At: began, Events: []eventstore.Event{{Type: "bid_placed", Data: data}},
			}
		}
		g.Deliver(commits)
		for delivered += uint64(batch * sessions); g.Stats().Delivered < delivered; {
			runtime.Gosched()
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N*batch*sessions)/time.Since(began).Seconds(), "deliveries/s")
	if g.Stats().Demotions > 0 {
		b.Errorf("%d sessions were demoted", g.Stats().Demotions)
	}
	cancel()
	_ = srv.Close()
	running.Wait()
}
