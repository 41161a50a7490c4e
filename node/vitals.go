package node

import (
	"context"
	"runtime/metrics"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/relay"
)

// vitals returns the node's own figures.
func (n *node) vitals() console.Vitals {
	n.observer.Steps.Keep() // a page is open
	v := console.Vitals{Position: uint64(n.feed.Stats().Watermark), StoreUp: n.observer.Store.Up(time.Now())}
	if n.gateway != nil {
		s := n.gateway.Stats()
		v.Commands, v.Delivered, v.Sessions, v.Full = s.Commands, s.Delivered, s.Sessions, s.Full
		v.Answered, v.Bounds = n.answered()
	}
	for _, s := range n.readSide.projections.Stats() {
		for _, f := range s.Segments {
			v.LagEvents, v.Lag = max(v.LagEvents, f.Behind), max(v.Lag, f.Stale)
			v.Blocked += f.Blocked
			if slices.Contains(engine.StopReasons, f.Stopped) {
				v.Stopped++
			}
		}
	}
	if n.readSide.wakes != nil {
		s := n.readSide.wakes.Stats()
		v.Blocked += s.Refused
		v.LagEvents = max(v.LagEvents, s.Behind)
	}
	for _, s := range n.readSide.projections.Relays() {
		for _, f := range s.Segments {
			if reason, _ := relayWaits(s, f); reason != "" {
				v.Relays = append(v.Relays, console.WaitingRelay{Relay: s.Relay, Reason: reason, Lag: f.Stale})
			}
		}
	}
	for _, one := range n.intakes {
		s := one.Stats()
		switch {
		case s.Connected():
			v.Intakes = append(v.Intakes, console.Intake{Intake: s.Intake})
		case s.State == relay.IntakeAway:
			v.Intakes = append(v.Intakes, console.Intake{Intake: s.Intake, Away: time.Since(s.Since)})
		}
	}
	if n.tls != nil {
		v.CertificateExpires = n.tls.Expires()
	}
	v.CPU, v.MemoryBytes = processUse()
	return v
}

// answered returns the histogram of the times to answer commands: the number of
// commands of each bucket, and the upper bounds of all but the last one.
func (n *node) answered() (counts []uint64, bounds []float64) {
	var m dto.Metric
	if err := n.observer.Commands.Write(&m); err != nil {
		return nil, nil
	}
	var below uint64
	for _, b := range m.Histogram.Bucket {
		counts, bounds = append(counts, b.GetCumulativeCount()-below), append(bounds, b.GetUpperBound())
		below = b.GetCumulativeCount()
	}
	return append(counts, m.Histogram.GetSampleCount()-below), bounds
}

// processUse returns the processor time that the process has used, and the memory that
// Go's runtime has from the system and has not given back.
func processUse() (cpu time.Duration, bytes uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return processorTime(), samples[0].Value.Uint64() - samples[1].Value.Uint64()
}

// Vitals reports the node's figures to a node that shows them to operators.
func (s peerServer) Vitals(context.Context, *peer.VitalsRequest) (*peer.VitalsReply, error) {
	v := s.node.vitals()
	reply := &peer.VitalsReply{
		Commands: v.Commands, Delivered: v.Delivered, Answered: v.Answered, Bounds: v.Bounds, Sessions: uint32(v.Sessions), Full: uint32(v.Full),
		Position: v.Position, LagEvents: v.LagEvents, LagSeconds: v.Lag.Seconds(), Blocked: uint32(v.Blocked), Stopped: uint32(v.Stopped),
		CpuSeconds: v.CPU.Seconds(), MemoryBytes: v.MemoryBytes, StoreUp: v.StoreUp,
	}
	for _, r := range v.Relays {
		reply.Relays = append(reply.Relays, &peer.WaitingRelay{Relay: r.Relay, Reason: r.Reason, LagSeconds: r.Lag.Seconds()})
	}
	for _, in := range v.Intakes {
		reply.Intakes = append(reply.Intakes, &peer.VitalIntake{Intake: in.Intake, AwaySeconds: in.Away.Seconds()})
	}
	if !v.CertificateExpires.IsZero() {
		reply.CertificateExpires = v.CertificateExpires.Unix()
	}
	return reply, nil
}

// vitalsOf asks a member for its figures.
func (n *node) vitalsOf(ctx context.Context, m console.Member) (v console.Vitals, err error) {
	if m.ID == n.cfg.Name {
		return n.vitals(), nil
	}
	r, err := n.pool.Peer(m.Peer).Vitals(ctx, &peer.VitalsRequest{})
	if err != nil {
		return v, whySilent(ctx, err)
	}
	v = console.Vitals{
		Commands: r.Commands, Delivered: r.Delivered, Answered: r.Answered, Bounds: r.Bounds, Sessions: int(r.Sessions), Full: int(r.Full),
		Position: r.Position, LagEvents: r.LagEvents, Lag: seconds(r.LagSeconds), Blocked: int(r.Blocked), Stopped: int(r.Stopped),
		CPU: seconds(r.CpuSeconds), MemoryBytes: r.MemoryBytes, StoreUp: r.StoreUp,
	}
	for _, one := range r.Relays {
		v.Relays = append(v.Relays, console.WaitingRelay{Relay: one.Relay, Reason: one.Reason, Lag: seconds(one.LagSeconds)})
	}
	for _, one := range r.Intakes {
		v.Intakes = append(v.Intakes, console.Intake{Intake: one.Intake, Away: seconds(one.AwaySeconds)})
	}
	if r.CertificateExpires != 0 {
		v.CertificateExpires = time.Unix(r.CertificateExpires, 0)
	}
	return v, nil
}
