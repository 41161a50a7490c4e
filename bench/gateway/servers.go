package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// server is one of the compared servers, with its clients.
type server struct {
	name       string
	addr       string // for clients
	publish    string // for publishers
	process    *process
	origin     *process // publishes its events; nil if the load process does
	log        int      // process id of its log, 0 if it has none
	load       *process
	crowd      *process // gateway only: more clients, at a lower priority
	emptyBytes int      // bytes of memory before the first client
}

// fleet has all servers and the log.
type fleet struct {
	log     *postgrestest.Server
	servers []*server
}

// Names of the servers and of their dialects.
const (
	gateway    = "ganglion"
	centrifuge = "centrifuge"
	bare       = "bare"
)

// openFleet starts the servers on the first processor, and all other processes
// on the other processors, where this process runs too.
func openFleet(ctx context.Context, binary string, cpus []int, rivals ...string) (_ *fleet, err error) {
	f := new(fleet)
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	measured, others := cpus[:1], cpus[1:]
	// The log waits for the disk, as in production. It is not the embedded store,
	// which only one process can open: the gateway needs its own process, so that
	// its processor time is measured apart from that of log and aggregates.
	if f.log, err = postgrestest.StartServer(ctx, postgrestest.Options{Durable: true, Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min",
	}}); err != nil {
		return nil, err
	}
	gossip, err := freeAddress()
	if err != nil {
		return nil, err
	}
	g := &server{name: gateway, log: f.log.PID()}
	f.servers = append(f.servers, g)
	if g.origin, err = start("origin", others, self, "origin", f.log.URL("postgres"), gossip); err != nil {
		return nil, err
	}
	origin, err := g.origin.ready("ganglion: ready http://")
	if err != nil {
		return nil, err
	}
	if g.process, err = start(g.name, measured, binary, "node", "--name", "gateway", "--roles", "gateway", "--store", f.log.URL("postgres"),
		"--join", gossip, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0", "--log-level", "warn"); err != nil {
		return nil, err
	}
	addr, err := g.process.ready("ganglion: ready http://")
	if err != nil {
		return nil, err
	}
	if err := g.loadFrom(others, addr, origin); err != nil {
		return nil, err
	}
	if g.crowd, err = start("the crowd", others, self, "aside", "load", gateway, addr, origin); err != nil {
		return nil, err
	}
	for _, name := range rivals {
		r := &server{name: name}
		f.servers = append(f.servers, r)
		if r.process, err = start(name, measured, self, name); err != nil {
			return nil, err
		}
		addrs, err := r.process.ready("ready ")
		if err != nil {
			return nil, err
		}
		clients, publisher, _ := strings.Cut(addrs, " ")
		if err := r.loadFrom(others, clients, publisher); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (s *server) loadFrom(cpus []int, clients, publisher string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.addr, s.publish = clients, publisher
	if s.emptyBytes, err = resident(s.process.pid()); err != nil {
		return err
	}
	s.load, err = start("clients of "+s.name, cpus, self, "load", s.name, clients, publisher)
	return err
}

// do sends an order to the server's clients. The first processor time of the
// report is the server's.
func (s *server) do(o load.Order) (load.Report, error) {
	o.Watch = []int{s.process.pid()}
	if s.origin != nil {
		o.Watch = append(o.Watch, s.origin.pid(), s.log)
	}
	return s.doBy(s.load, o)
}

// doBy sends an order to the server's clients in one process. Its error describes
// the state of the server.
func (s *server) doBy(clients *process, o load.Order) (load.Report, error) {
	r, err := clients.do(o)
	if err != nil {
		for _, p := range []*process{s.process, s.origin} {
			if p != nil {
				err = fmt.Errorf("%w%s", err, p.status())
			}
		}
	}
	return r, err
}

func (f *fleet) close() error {
	for i, s := range f.servers {
		for _, p := range []*process{s.load, s.crowd, s.process, s.origin} {
			if p != nil && (i == 0 || p != f.servers[0].process) {
				p.stop()
			}
		}
	}
	if f.log != nil {
		return f.log.Close()
	}
	return nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
