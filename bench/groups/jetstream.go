package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// jetStream is NATS with a stream in files that waits for the disk, and a durable
// consumer for each partition. In its favour, each member has a fixed third of the
// consumers, so the server does not have to find out which member is active.
type jetStream struct {
	server     *process
	dir        string
	connection *nats.Conn
	context    jetstream.JetStream
}

const (
	streamName = "bids"
	// natsWithin bounds the start of the server.
	natsWithin = time.Minute
)

// runNATS runs a server until ctx ends.
func runNATS(ctx context.Context, dir string) error {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, SyncAlways: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(natsWithin) {
		return fmt.Errorf("the NATS server is not ready after %v", natsWithin)
	}
	fmt.Println(roleReady + s.ClientURL())
	<-ctx.Done()
	return nil
}

func openJetStream(context.Context) (_ system, err error) {
	j := new(jetStream)
	defer func() {
		if err != nil {
			err = errors.Join(err, j.close())
		}
	}()
	if j.dir, err = os.MkdirTemp("", "ganglion-jetstream"); err != nil {
		return nil, err
	}
	if j.server, err = startRole("nats", j.dir); err != nil {
		return nil, err
	}
	if j.connection, err = nats.Connect(j.server.url); err != nil {
		return nil, err
	}
	j.context, err = jetstream.New(j.connection)
	return j, err
}

// fill declares stream and consumers, and publishes messages with confirmations.
func (j *jetStream) fill(ctx context.Context, events int) (rate float64, err error) {
	stream, err := j.context.CreateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"bids.>"}, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return 0, err
	}
	for p := range partitions {
		if _, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: queueName(p), FilterSubject: fmt.Sprintf("bids.%d.*", p), AckPolicy: jetstream.AckAllPolicy, MaxAckPending: window,
		}); err != nil {
			return 0, err
		}
	}
	return fill(ctx, events, func(ctx context.Context, lot, _ int, data []byte) error {
		_, err := j.context.Publish(ctx, fmt.Sprintf("bids.%d.%d", lot%partitions, lot), data)
		return err
	})
}

func (j *jetStream) drain(ctx context.Context, t *tally) (err error) {
	consuming, ctx := errgroup.WithContext(ctx)
	ctx, leave := context.WithCancel(ctx)
	var subscriptions []jetstream.ConsumeContext
	var connections []*nats.Conn
	defer func() {
		leave()
		err = errors.Join(consuming.Wait(), err)
		for _, s := range subscriptions {
			s.Stop()
		}
		for _, c := range connections {
			err = errors.Join(err, c.Flush())
			c.Close()
		}
		if err == nil {
			err = j.remove()
		}
	}()
	for m := range members {
		c, err := nats.Connect(j.server.url)
		if err != nil {
			return err
		}
		connections = append(connections, c)
		for p := m; p < partitions; p += members {
			messages, s, err := consumeNATS(ctx, c, p)
			if err != nil {
				return err
			}
			subscriptions = append(subscriptions, s)
			consuming.Go(func() error { return acknowledge(ctx, messages, jetstream.Msg.Data, jetstream.Msg.Ack, t) })
		}
	}
	select {
	case <-t.all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// consumeNATS begins to consume a partition. Messages that arrive after the end of ctx
// are dropped.
func consumeNATS(ctx context.Context, c *nats.Conn, partition int) (<-chan jetstream.Msg, jetstream.ConsumeContext, error) {
	js, err := jetstream.New(c)
	if err != nil {
		return nil, nil, err
	}
	consumer, err := js.Consumer(ctx, streamName, queueName(partition))
	if err != nil {
		return nil, nil, err
	}
	messages := make(chan jetstream.Msg, window)
	s, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessages(window))
	return messages, s, err
}

// remove removes the stream. It fails if messages are still not acknowledged after a
// minute.
func (j *jetStream) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for p := range partitions {
		for {
			consumer, err := j.context.Consumer(ctx, streamName, queueName(p))
			if err != nil {
				return fmt.Errorf("consumer %d has not recorded all acknowledgements: %w", p, err)
			}
			if i := consumer.CachedInfo(); i.NumPending == 0 && i.NumAckPending == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return j.context.DeleteStream(ctx, streamName)
}

func (j *jetStream) close() error {
	if j.connection != nil {
		j.connection.Close()
	}
	if j.server != nil {
		j.server.stop()
	}
	return os.RemoveAll(j.dir)
}
