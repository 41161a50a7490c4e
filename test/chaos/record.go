package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/test/chaos/schedule"
)

// With -record the rig runs drills instead of random faults, and writes the series
// that Prometheus would scrape into a file of promtool tests. The expected alerts
// in that file are written by hand.

const (
	// scrapeEvery is the interval of scrapes in deploy/prometheus.
	scrapeEvery = 5 * time.Second
	// The phases of a drill: before, during and after its fault.
	drillBefore, drillFor, drillAfter = 20 * time.Second, 110 * time.Second, 45 * time.Second
	// rollAway is the time for which a roll stops a node, and the pause before the
	// next node.
	rollAway = 8 * time.Second
	// smallDiskMiB is the size of the disk that a drill fills.
	smallDiskMiB = 64
)

// drill is a fault of the cluster and its repair.
type drill struct {
	name          string
	begin, repair func(context.Context, *injector) error
}

var drills = []drill{
	{
		"drain", // a domain node and a gateway; their processes keep running
		func(ctx context.Context, in *injector) error {
			for _, name := range []string{"n1", "g2"} {
				out, err := exec.CommandContext(ctx, in.world.binary, "drain", name, "--url", "http://"+in.world.node("g1").listen).CombinedOutput()
				if err != nil {
					return fmt.Errorf("drain %s: %w: %s", name, err, out)
				}
			}
			return nil
		},
		func(ctx context.Context, in *injector) error {
			return errors.Join(in.restart(ctx, in.world.node("n1")), in.restart(ctx, in.world.node("g2")))
		},
	},
	{
		"roll", // all nodes; each is stopped for the time that a machine needs to start another version
		func(ctx context.Context, in *injector) error {
			for _, n := range in.world.nodes {
				if err := n.leave(); err != nil {
					return err
				}
				sleep(ctx, rollAway)
				if err := errors.Join(n.start(), n.awaitReady(ctx), in.world.awaitSettled(ctx, in.world.settle)); err != nil {
					return err
				}
				sleep(ctx, rollAway)
			}
			return nil
		},
		nil,
	},
	{
		"kill", // a domain node; service discovery forgets it
		func(_ context.Context, in *injector) error { in.world.node("n1").kill(); return nil },
		func(ctx context.Context, in *injector) error {
			n := in.world.node("n1")
			return errors.Join(n.start(), n.awaitReady(ctx))
		},
	},
	{
		"partition", // a domain node from all other nodes, but not from database and Prometheus
		func(_ context.Context, in *injector) error {
			return in.cut(schedule.Fault{Kind: schedule.CutPeers, Node: "n1"})
		},
		func(_ context.Context, in *injector) error { in.world.network.Heal(); return nil },
	},
	{
		"pair", // cut a domain node and a gateway from each other only
		func(_ context.Context, in *injector) error {
			return in.cut(schedule.Fault{Kind: schedule.CutPair, Node: "n1", Peer: "g1"})
		},
		func(_ context.Context, in *injector) error { in.world.network.Heal(); return nil },
	},
	{
		"disk", // fill the disk of the database
		func(_ context.Context, in *injector) error { return fill(in.world.smallDisk) },
		func(_ context.Context, in *injector) error { return os.Remove(ballast(in.world.smallDisk)) },
	},
}

func (in *injector) cut(f schedule.Fault) error {
	for pair, rule := range in.rules(f) {
		in.world.network.Set(pair[0], pair[1], rule)
	}
	return nil
}

// record runs the drills under the load of clients, and writes the series into a
// file.
func (c config) record(ctx context.Context, w *world, file string) error {
	if w.network == nil {
		return errors.New("the drills need network namespaces: run them as root on Linux, without -loopback")
	}
	wanted, err := alerted(filepath.Join(filepath.Dir(file), "alerts.yml"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	var urls []string
	for _, g := range w.gateways() {
		urls = append(urls, strings.Replace(g.URL, "ws:", "http:", 1))
	}
	for i := range 10 {
		clients.Go(func() {
			command(ctx, fmt.Sprint("c", i), append(slices.Clone(urls[i%len(urls):]), urls[:i%len(urls)]...))
		})
	}
	for _, d := range drills {
		if !strings.Contains(d.name, c.only) {
			continue
		}
		in := &injector{world: w, now: func() int64 { return int64(time.Since(began)) }, counts: map[schedule.Kind]int{}}
		if err := w.awaitSettled(ctx, w.settle); err != nil {
			return err
		}
		r := &recorder{world: w, wanted: wanted, began: time.Now(), series: map[string][]string{}}
		scraping, stop := context.WithCancel(ctx)
		var scrapes sync.WaitGroup
		scrapes.Go(func() { r.run(scraping) })
		err := r.drill(ctx, in, d)
		stop()
		scrapes.Wait()
		if err == nil && len(in.anomalies) > 0 {
			err = errors.New(strings.Join(in.anomalies, "; "))
		}
		if err == nil {
			err = r.write(file, d.name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// command sends commands in turn, each until its outcome is known.
func command(ctx context.Context, id string, urls []string) {
	c, err := client.Connect(ctx, client.Options{URLs: urls, ClientID: id, OnError: func(*client.Error) {}})
	if err != nil {
		return // ctx has ended
	}
	defer c.Close()
	counter := client.Type[any, any]{Name: "counter"}
	for n := 0; ctx.Err() == nil; n++ {
		_, _ = counter.Aggregate(c, fmt.Sprint("record-", id, "-", n%20)).Send(ctx, "add", map[string]int{"by": 1}) // metrics show failures
		sleep(ctx, 250*time.Millisecond)
	}
}

// alerted returns the metrics that the alert rules read, each with the selected
// buckets or codes. It omits gauges that the drills do not change.
func alerted(rules string) (map[string][]string, error) {
	raw, err := os.ReadFile(rules)
	if err != nil {
		return nil, err
	}
	wanted := map[string][]string{}
	for _, read := range regexp.MustCompile(`(ganglion_[a-z_]+)(\{((?:le|code)="[^"]*")\})?`).FindAllStringSubmatch(string(raw), -1) {
		wanted[read[1]] = append(wanted[read[1]], read[3])
	}
	for _, name := range []string{"ganglion_limit", "ganglion_outbound_bytes", "ganglion_sessions", "ganglion_sessions_anonymous", "ganglion_clock_ahead_seconds"} {
		delete(wanted, name)
	}
	return wanted, nil
}

// recorder scrapes nodes as Prometheus does, and keeps the values.
type recorder struct {
	world  *world
	wanted map[string][]string // see alerted
	began  time.Time
	notes  []string

	scrapes int                 // number of scrapes so far
	series  map[string][]string // one value per scrape; "_" if it is missing
}

func (r *recorder) note(text string) {
	r.notes = append(r.notes, fmt.Sprintf("%v %s", time.Since(r.began).Round(time.Second), text))
	say("%s", text)
}

func (r *recorder) drill(ctx context.Context, in *injector, d drill) error {
	sleep(ctx, drillBefore)
	r.note(d.name + " begins")
	at := time.Now()
	if err := d.begin(ctx, in); err != nil {
		return err
	}
	r.note(d.name + " has begun")
	sleep(ctx, drillFor-time.Since(at))
	if d.repair != nil {
		r.note("repaired")
		if err := d.repair(ctx, in); err != nil {
			return err
		}
	}
	if err := r.world.awaitSettled(ctx, readyWithin); err != nil {
		return err
	}
	r.note("settled")
	sleep(ctx, drillAfter)
	return ctx.Err()
}

func (r *recorder) run(ctx context.Context) {
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		r.scrape()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// scrape scrapes all nodes whose process runs. Service discovery, such as the DNS
// of containers, forgets the others.
func (r *recorder) scrape() {
	samples := make([]map[string]string, len(r.world.nodes))
	var all sync.WaitGroup
	for i, n := range r.world.nodes {
		all.Go(func() {
			select {
			case <-n.process().done:
			default:
				samples[i] = r.ask(n)
			}
		})
	}
	all.Wait()
	for _, sample := range samples {
		for name, value := range sample {
			if r.series[name] == nil {
				r.series[name] = slices.Repeat([]string{"_"}, r.scrapes)
			}
			r.series[name] = append(r.series[name], value)
		}
	}
	r.scrapes++
	for name, values := range r.series {
		if len(values) < r.scrapes {
			value := "_"
			if last := values[len(values)-1]; last != "_" && last != "stale" {
				value = "stale"
			}
			r.series[name] = append(values, value)
		}
	}
}

// ask scrapes a node. If the node does not reply, the result has only up.
func (r *recorder) ask(n *node) map[string]string {
	instance := fmt.Sprintf(`job="ganglion",instance=%q`, n.name)
	sample := map[string]string{"up{" + instance + "}": "0"}
	http := http.Client{Timeout: scrapeEvery / 2, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := http.Get("http://" + n.listen + "/metrics")
	if err != nil {
		return sample
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return sample
	}
	sample["up{"+instance+"}"] = "1"
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		series, text, _ := strings.Cut(lines.Text(), " ")
		name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		value, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil || !slices.ContainsFunc(r.wanted[name], func(pick string) bool { return strings.Contains(labels, pick) }):
		default:
			if labels != "" {
				labels = "," + labels
			}
			sample[name+"{"+instance+labels+"}"] = strconv.FormatFloat(float64(int64(value*10+0.5))/10, 'f', -1, 64)
		}
	}
	return sample
}

// write replaces the series of the drill in the file.
func (r *recorder) write(file, name string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, found := strings.Cut(string(raw), "\n    input_series: # recorded: "+name+"\n")
	if !found {
		return fmt.Errorf("%s has no line '    input_series: # recorded: %s'", file, name)
	}
	for strings.HasPrefix(rest, "      ") {
		_, rest, _ = strings.Cut(rest, "\n")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n    input_series: # recorded: %s\n      # %s\n", head, name, strings.Join(r.notes, ", "))
	for _, series := range slices.Sorted(maps.Keys(r.series)) {
		values := r.series[series]
		if !strings.HasPrefix(series, "up{") && !strings.HasPrefix(series, "ganglion_ready{") && !slices.ContainsFunc(values, func(v string) bool { return v != "0" && v != "_" && v != "stale" }) {
			continue // it was always 0, which triggers no rule
		}
		fmt.Fprintf(&b, "      - {series: '%s', values: '%s'}\n", series, notation(values))
	}
	return os.WriteFile(file, []byte(b.String()+rest), 0o644)
}

// notation returns the values in promtool's notation, which counts repeated values
// and gaps.
func notation(values []string) string {
	var parts []string
	for i := 0; i < len(values); {
		end := i
		for end < len(values) && values[end] == values[i] {
			end++
		}
		switch n := end - i; {
		case values[i] == "_":
			parts = append(parts, fmt.Sprint("_x", n))
		case n > 1:
			parts = append(parts, fmt.Sprint(values[i], "x", n-1))
		default:
			parts = append(parts, values[i])
		}
		i = end
	}
	return strings.Join(parts, " ")
}

func ballast(dir string) string { return filepath.Join(dir, "ballast") }

// fill fills a disk to the last byte.
func fill(dir string) error {
	f, err := os.OpenFile(ballast(dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, piece := range [][]byte{make([]byte, 64<<10), make([]byte, 1)} {
		for err == nil {
			_, err = f.Write(piece)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}

// useSmallDisk puts the log on its own small disk.
func (w *world) useSmallDisk(ctx context.Context) error {
	dir := filepath.Join(w.server.Dir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := mount(dir, smallDiskMiB); err != nil {
		return fmt.Errorf("mount the small disk: %w", err)
	}
	w.smallDisk = dir
	if err := w.server.Own(dir); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, w.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{`create tablespace small location '` + dir + `'`, `create database small tablespace small`} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
