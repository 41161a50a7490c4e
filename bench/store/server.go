package main

import (
	"context"

	"github.com/ganglion-es/ganglion/bench/pgserver"
)

// server is the durable PostgreSQL of a run.
type server struct{ *pgserver.Server }

func startServer(ctx context.Context) (*server, error) {
	s, err := pgserver.Start(ctx)
	if err != nil {
		return nil, err
	}
	return &server{s}, nil
}

// measured takes a sample and adds the server's usage to it.
func (s *server) measured(ctx context.Context, take func() (sample, error)) (sample, error) {
	before, err := s.Usage(ctx)
	if err != nil {
		return sample{}, err
	}
	taken, err := take()
	if err != nil {
		return taken, err
	}
	after, err := s.Usage(ctx)
	taken.cpu, taken.wal = after.CPU-before.CPU, after.WAL-before.WAL
	return taken, err
}
