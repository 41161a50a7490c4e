// Command gateway measures the gateway beside its rivals, and fails when it
// falls below its floors. Run it as "make bench-gateway", with ARGS=--quick
// for a first look.
//
//   - ganglion: the binary as it ships, as a node that is a gateway only. Its
//     events come from the log, PostgreSQL that waits for the disk, by way of a
//     second node that runs the aggregates.
//   - centrifuge: the library of Centrifugo, with history; see package rival.
//   - bare: what coder/websocket alone costs; see package rival.
//
// All three run from the beginning to the end and take turns, case by case and
// round after round, and are compared round by round, so that what else the
// machine does strikes them alike. The server that is measured has a processor
// of its own; clients, log and origin share the others.
//
// What slow sessions cost the others, and with ARGS=--storm a reconnect storm,
// are measured on the gateway alone, beside itself without them.
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

// run is the benchmark, or one of the processes that it starts.
func run(ctx context.Context, args []string) error {
	role := ""
	if len(args) > 0 {
		role = args[0]
	}
	switch role {
	case "on":
		return become(args[1], args[2:])
	case "aside":
		return giveWay(args[1:])
	case "load":
		return load.Run(args[1], args[2], args[3], os.Stdin, os.Stdout)
	case "origin":
		return runOrigin(ctx, args[1], args[2])
	case centrifuge:
		return rival.Centrifuge()
	case bare:
		return rival.Bare()
	}

	flags := flag.NewFlagSet("bench-gateway", flag.ContinueOnError)
	var (
		binary = flags.String("binary", "", "the ganglion to measure")
		quick  = flags.Bool("quick", false, "fewer and shorter rounds, with more noise")
		storm  = flags.Bool("storm", false, "measure a reconnect storm, and nothing else")
		only   = flags.String("only", "", "measure only the cases whose name matches this regular expression")
		cpu    = flags.Int("server-cpu", -1, "the processor of the servers, when this process runs on the others already")
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
			return errors.New("a server and its clients need a processor each, and there is one only")
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		// What this process starts, PostgreSQL too, then runs there as well.
		return become(joined(cpus[1:]), slices.Concat([]string{self, "-server-cpu", strconv.Itoa(cpus[0])}, args))
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	cpus = slices.Concat([]int{*cpu}, cpus)
	if *storm {
		return reconnectStorm(ctx, os.Stdout, *binary, cpus, *quick)
	}
	return benchmark(ctx, os.Stdout, *binary, cpus, *quick, match)
}
