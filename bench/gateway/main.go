// Command gateway compares the gateway with rivals, and fails if a ratio misses
// its floor. Run it with "make bench-gateway", or with ARGS=--quick for a first
// look.
//
//   - ganglion: the released binary as a node with the role of a gateway. Its
//     events come from the log, a PostgreSQL that waits for the disk, through a
//     second node that runs the aggregates.
//   - centrifuge: the library of Centrifugo, with history; see package rival.
//   - bare: the cost of coder/websocket alone; see package rival.
//
// All three run during the whole benchmark, take turns in each round, and are
// compared round by round, so that other load on the machine affects all of them.
// The measured server has its own processor; clients, log and origin share the
// others.
//
// Two cases compare the gateway with itself: the cost of slow sessions for
// others, and a reconnect storm (ARGS=--storm). ARGS=--stomp compares its sessions over
// STOMP with those over its own protocol, and with RabbitMQ.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"syscall"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/bench/gateway/rival"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-gateway:", err)
		os.Exit(1)
	}
}

// run runs the benchmark, or the role of a process that the benchmark started.
func run(ctx context.Context, args []string) error {
	role := ""
	if len(args) > 0 {
		role = args[0]
	}
	switch role {
	case "on":
		return pinTo(args[1], args[2:])
	case "aside":
		return lowerPriority(args[1:])
	case "load":
		return load.Run(args[1], args[2], args[3], os.Stdin, os.Stdout)
	case "origin":
		return runOrigin(ctx, args[1], args[2])
	case centrifuge:
		return rival.Centrifuge()
	case bare:
		return rival.Bare()
	case rabbitMQ:
		return runRabbitMQ()
	}

	flags := flag.NewFlagSet("bench-gateway", flag.ContinueOnError)
	var (
		binary = flags.String("binary", "", "`path` of the ganglion binary to measure")
		quick  = flags.Bool("quick", false, "fewer and shorter rounds, with more noise")
		storm  = flags.Bool("storm", false, "measure only a reconnect storm")
		stomp  = flags.Bool("stomp", false, "measure only sessions over STOMP, with RabbitMQ as the rival")
		only   = flags.String("only", "", "measure only cases whose name matches this regular `expression`")
		cpu    = flags.Int("server-cpu", -1, "processor of the servers, if this process already runs on the others")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	cpus, err := processors()
	if err != nil {
		return err
	}
	if *cpu < 0 {
		if len(cpus) < 2 {
			return errors.New("need 2 processors, one for the server and one for its clients; this machine has 1")
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		// Processes that this one starts, such as PostgreSQL, inherit its processors.
		return pinTo(joined(cpus[1:]), slices.Concat([]string{self, "-server-cpu", strconv.Itoa(cpus[0])}, args))
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	cpus = slices.Concat([]int{*cpu}, cpus)
	if *stomp {
		return compareSTOMP(ctx, os.Stdout, *binary, cpus, *quick)
	}
	if *storm {
		return reconnectStorm(ctx, os.Stdout, *binary, cpus, *quick)
	}
	return benchmark(ctx, os.Stdout, *binary, cpus, *quick, match)
}
