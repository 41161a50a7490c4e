package node

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/watched"
)

// sizeInterval is how often a node reads the size of its log.
const sizeInterval = time.Minute

// watchSize reads the size of the log for the metrics.
func (n *node) watchSize(ctx context.Context) error {
	n.readSize(ctx)
	return watched.Watch(ctx, sizeInterval, func() { n.readSize(ctx) })
}

func (n *node) readSize(ctx context.Context) {
	size, err := n.store.Size(ctx)
	if err != nil {
		n.log.Debug("the size of the log cannot be read", "err", err)
		return
	}
	n.size.Store(&size)
}

func (n *node) sizeMetrics(r registry) {
	read := func(of func(eventstore.Size) int64) func() float64 {
		return func() float64 {
			size := n.size.Load()
			if size == nil {
				return 0
			}
			return float64(of(*size))
		}
	}
	r.gauge("ganglion_store_database_bytes", "Size of the whole database, or of the files of the embedded log.", read(func(s eventstore.Size) int64 { return s.Database }))
	r.gauge("ganglion_store_log_bytes", "Size of the table of commits with its indexes.", read(func(s eventstore.Size) int64 { return s.Log }))
	r.gauge("ganglion_store_transaction_age", "Transactions since the oldest transaction id that the database server must still know.",
		read(func(s eventstore.Size) int64 { return s.TransactionAge }))
}
