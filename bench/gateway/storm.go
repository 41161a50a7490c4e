package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
)

// The storm: so many sessions, fifty on each stream, are cut at once, and come
// back at once when each has missed a thousand events. That is 200,000 events
// in commits of their own, three times what the gateway's window keeps. A
// thousand other sessions, from another process, get what is live meanwhile.
const (
	stormSessions = manyN
	stormStreams  = 200
	stormMissed   = 1000
)

// stormRound is what one storm did.
type stormRound struct {
	back        load.Report
	reads       float64
	calm, storm []load.Report // of the live sessions, a second each
}

func reconnectStorm(ctx context.Context, w io.Writer, binary string, cpus []int, quick bool) (err error) {
	rounds := 3
	if quick {
		rounds = 1
	}
	began := time.Now()
	f, err := openFleet(ctx, binary, cpus)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	printMachine(w, cpus)
	s := f.servers[0]
	hot := []string{"hot"}
	if _, err := s.do(load.Order{Do: "open", Group: few, Sessions: fewN, Topics: hot}); err != nil {
		return err
	}
	if _, err := s.do(load.Order{Do: "pace", Group: few, Topics: hot, For: time.Second, Rate: othersRate}); err != nil {
		return err
	}
	list := make([]*stormRound, rounds)
	for i := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if list[i], err = s.storm(i); err != nil {
			return err
		}
		list[i].print(w)
	}
	return conclude(w, began, stormRatios(list))
}

// storm lets one blow over.
func (s *server) storm(round int) (*stormRound, error) {
	topics := make([]string, stormStreams)
	for i := range topics {
		topics[i] = fmt.Sprintf("storm-%d-%d", round, i)
	}
	for _, o := range []load.Order{
		{Do: "publish", Topics: topics, Events: 1, Burst: 1},
		{Do: "open", Group: "storm", Sessions: stormSessions, Topics: topics},
		{Do: "cut", Group: "storm"},
		{Do: "publish", Topics: topics, Events: stormMissed, Burst: 1},
	} {
		if _, err := s.have(s.crowd, o); err != nil {
			return nil, err
		}
	}
	if err := quiet(s); err != nil {
		return nil, err
	}
	watch := []int{s.process.pid()} // PostgreSQL's processes come and go with the reads
	live := load.Order{Do: "pace", Group: few, Topics: []string{"hot"}, For: time.Second, Rate: othersRate, Watch: watch}
	r := new(stormRound)
	for range 3 {
		calm, err := s.have(s.load, live)
		if err != nil {
			return nil, err
		}
		r.calm = append(r.calm, calm)
	}

	before, err := s.historyReads()
	if err != nil {
		return nil, err
	}
	back := make(chan error, 1)
	go func() {
		var err error
		r.back, err = s.have(s.crowd, load.Order{Do: "resume", Group: "storm", Sessions: stormSessions, Topics: topics, After: 1, Watch: watch})
		back <- err
	}()
	for over := false; !over; {
		beside, err := s.have(s.load, live)
		if err != nil {
			return nil, errors.Join(err, <-back)
		}
		r.storm = append(r.storm, beside)
		select {
		case err := <-back:
			if err != nil {
				return nil, err
			}
			over = true
		default:
		}
	}
	after, err := s.historyReads()
	r.reads = after - before
	return r, err
}

// historyReads returns how often the gateway has read the log for
// subscriptions.
func (s *server) historyReads() (float64, error) {
	resp, err := http.Get("http://" + s.addr + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "ganglion_history_reads_total "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.New("there is no ganglion_history_reads_total")
}

// print prints the curve, and what it cost.
func (r *stormRound) print(w io.Writer) {
	fmt.Fprintf(w, "%s sessions on %d streams come back at once, each has missed %s events\n", thousands(stormSessions), stormStreams, thousands(stormMissed))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "caught up\t")
	shares := []int{1, 10, 25, 50, 75, 90, 99, 100}
	for _, share := range shares {
		fmt.Fprintf(t, "%d %%\t", share)
	}
	fmt.Fprint(t, "\nafter\t")
	for _, share := range shares {
		fmt.Fprintf(t, "%.2f s\t", r.back.Done[share*len(r.back.Done)/100-1].Seconds())
	}
	fmt.Fprintln(t)
	t.Flush()
	fmt.Fprintf(w, "%s deliveries/s; %.0f reads of the log, %.3f a session; server busy %.0f %%, %.2f µs a delivery; clients busy %.0f %%\n",
		thousands(float64(r.back.Deliveries)/r.back.Elapsed.Seconds()), r.reads, r.reads/stormSessions,
		100*r.back.CPU[0].Seconds()/r.back.Elapsed.Seconds(), cpuEach(r.back), 100*r.back.Own.Seconds()/r.back.Elapsed.Seconds())
	calm, storm := measurement{samples: r.calm}, measurement{samples: r.storm}
	fmt.Fprintf(w, "%s live sessions, %d events/s: p99 %.1f ms before, %.1f ms meanwhile\n\n", thousands(fewN), othersRate, calm.median(p99), storm.median(p99))
}

// stormRatios are what is told of all storms; none has a floor.
func stormRatios(list []*stormRound) []ratio {
	all := ratio{name: "seconds until all have caught up"}
	reads := ratio{name: "reads of the log, each session"}
	live := ratio{name: "p99 of what is live, ms more than before"}
	for _, r := range list {
		calm, storm := measurement{samples: r.calm}, measurement{samples: r.storm}
		all.values = append(all.values, r.back.Elapsed.Seconds())
		reads.values = append(reads.values, r.reads/stormSessions)
		live.values = append(live.values, storm.median(p99)-calm.median(p99))
	}
	return []ratio{all, reads, live}
}
