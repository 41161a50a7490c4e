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
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/bench/report"
)

// In the storm 10,000 sessions, 50 per stream, are cut together and reconnect
// together after each has missed 1,000 events. The 200 streams then have
// 200,000 new events, each in its own commit: three times the gateway's window.
// Meanwhile 1,000 other sessions of another process receive live events.
const (
	stormSessions = manyN
	stormStreams  = 200
	stormMissed   = 1000
)

// stormRound has the figures of one storm.
type stormRound struct {
	back        load.Report
	reads       float64
	calm, storm []load.Report // of the live sessions, one per second
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

// storm runs one storm.
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
		if _, err := s.doBy(s.crowd, o); err != nil {
			return nil, err
		}
	}
	if err := quiet(s); err != nil {
		return nil, err
	}
	watch := []int{s.process.pid()} // not the log's: PostgreSQL starts and ends processes during the reads
	live := load.Order{Do: "pace", Group: few, Topics: []string{"hot"}, For: time.Second, Rate: othersRate, Watch: watch}
	r := new(stormRound)
	for range 3 {
		calm, err := s.doBy(s.load, live)
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
		r.back, err = s.doBy(s.crowd, load.Order{Do: "resume", Group: "storm", Sessions: stormSessions, Topics: topics, After: 1, Watch: watch})
		back <- err
	}()
	for over := false; !over; {
		during, err := s.doBy(s.load, live)
		if err != nil {
			return nil, errors.Join(err, <-back)
		}
		r.storm = append(r.storm, during)
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

// historyReads returns the number of times that the gateway has read the log
// for subscriptions.
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
	return 0, errors.New("/metrics has no ganglion_history_reads_total")
}

// print prints the times until shares of the sessions caught up, and the cost.
func (r *stormRound) print(w io.Writer) {
	fmt.Fprintf(w, "%s sessions on %d streams reconnect together, each has missed %s events\n", report.Thousands(stormSessions), stormStreams, report.Thousands(stormMissed))
	t := report.Table(w)
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
		report.Thousands(float64(r.back.Deliveries)/r.back.Elapsed.Seconds()), r.reads, r.reads/stormSessions,
		100*r.back.CPU[0].Seconds()/r.back.Elapsed.Seconds(), cpuEach(r.back), 100*r.back.Own.Seconds()/r.back.Elapsed.Seconds())
	calm, storm := measurement{samples: r.calm}, measurement{samples: r.storm}
	fmt.Fprintf(w, "%s live sessions, %d events/s: p99 %.1f ms before, %.1f ms during the storm\n\n", report.Thousands(fewN), othersRate, calm.median(p99), storm.median(p99))
}

// stormRatios returns the figures of all storms. They have no floors.
func stormRatios(list []*stormRound) []report.Ratio {
	all := report.Ratio{Name: "seconds until all have caught up"}
	reads := report.Ratio{Name: "reads of the log, each session"}
	live := report.Ratio{Name: "p99 of live events, ms more than before"}
	for _, r := range list {
		calm, storm := measurement{samples: r.calm}, measurement{samples: r.storm}
		all.Values = append(all.Values, r.back.Elapsed.Seconds())
		reads.Values = append(reads.Values, r.reads/stormSessions)
		live.Values = append(live.Values, storm.median(p99)-calm.median(p99))
	}
	return []report.Ratio{all, reads, live}
}
