package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
)

// Names of the servers of the comparison over STOMP, and of their dialects.
const (
	overSTOMP = "stomp"    // the same gateway, with other clients
	rabbitMQ  = "rabbitmq" // with its plugin rabbitmq_web_stomp
)

// compareSTOMP compares 1,000 sessions over STOMP with as many over the gateway's own
// protocol, and with RabbitMQ.
func compareSTOMP(ctx context.Context, w io.Writer, binary string, cpus []int, quick bool) (err error) {
	began := time.Now()
	f, err := openFleet(ctx, binary, cpus)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.addSTOMP(cpus); err != nil {
		return err
	}
	printMachine(w, cpus)
	for _, s := range f.servers {
		if _, err := s.do(load.Order{Do: "open", Group: few, Sessions: fewN, Topics: []string{s.name}}); err != nil {
			return err
		}
		if _, err := s.do(load.Order{Do: "pace", Group: few, Topics: []string{s.name}, Rate: 10, For: time.Second / 2}); err != nil {
			return err
		}
	}
	rounds, measured := 5, 2*time.Second
	if quick {
		rounds, measured = 3, time.Second
	}
	cases := []*scenario{
		{name: "STOMP: 1 topic × 1,000 sessions, saturated", rounds: rounds, sample: func(s *server, _ int) (load.Report, error) {
			return s.do(load.Order{Do: "saturate", Group: few, Topics: []string{s.name}, For: measured, Window: 64, Burst: 1})
		}},
		{name: "STOMP: 1 topic × 1,000 sessions, 10 events/s", rounds: rounds, sample: func(s *server, _ int) (load.Report, error) {
			return s.do(load.Order{Do: "pace", Group: few, Topics: []string{s.name}, For: measured, Rate: 10})
		}},
	}
	var all []report.Ratio
	for _, c := range cases {
		if err := f.takeTurns(ctx, c); err != nil {
			return err
		}
		c.print(w)
		of, own, rival := c.measure(overSTOMP), c.measure(gateway), c.measure(rabbitMQ)
		floor := 0.1
		if c == cases[1] { // each delivery is a write of its own, whose cost is the kernel's
			floor = 0
		}
		all = append(all,
			report.Ratio{Name: c.name + ": CPU per delivery to ganglion.v1", Values: compare(of, own, cpuEach, report.Quotient), AtMost: 1.3},
			report.Ratio{Name: c.name + ": CPU per delivery to RabbitMQ", Values: compare(of, rival, cpuEach, report.Quotient), AtMost: floor})
	}
	return conclude(w, began, all)
}

// addSTOMP adds the gateway's clients over STOMP, and RabbitMQ with its clients.
func (f *fleet) addSTOMP(cpus []int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	own := f.servers[0]
	s := &server{name: overSTOMP, process: own.process}
	if s.load, err = start("clients over STOMP", cpus[1:], self, "load", overSTOMP, own.addr, own.publish); err != nil {
		return err
	}
	f.servers = append(f.servers, s)
	r := &server{name: rabbitMQ}
	f.servers = append(f.servers, r)
	if r.process, err = start(rabbitMQ, cpus[:1], self, rabbitMQ); err != nil {
		return err
	}
	addr, err := r.process.ready("ready ")
	if err != nil {
		return err
	}
	return r.loadFrom(cpus[1:], addr, addr)
}

// runRabbitMQ runs RabbitMQ until its input ends.
func runRabbitMQ() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	broker, err := rabbitmqtest.Start(ctx, rabbitmqtest.Options{
		Plugins: []string{"rabbitmq_web_stomp"},
		Settings: []string{
			"listeners.tcp = none", "stomp.listeners.tcp = none", "web_stomp.tcp.ip = 127.0.0.1", "web_stomp.tcp.port = " + port,
			"web_stomp.ws_opts.idle_timeout = 3600000",
		}, // ms; other servers take their turns
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	fmt.Println("ready", addr)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}
