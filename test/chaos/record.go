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

// With -record the rig goes through drills instead of drawing faults, and
// writes what Prometheus would have scraped meanwhile into a file of tests for
// promtool. What is expected of the alerts stays in that file, by hand.

const (
	// scrapeEvery is how often nodes are scraped, as in deploy/prometheus.
	scrapeEvery = 5 * time.Second
	// A drill takes the time before, the time that its fault lasts, and the time
	// after that.
	drillBefore, drillFor, drillAfter = 20 * time.Second, 110 * time.Second, 45 * time.Second
	// rollAway is how long a node is away in a roll, and how long the next one
	// waits.
	rollAway = 8 * time.Second
	// smallDiskMiB is the size of the disk that is filled.
	smallDiskMiB = 64
)

// drill is something that happens to the cluster, and how it is mended.
type drill struct {
	name        string
	begin, mend func(context.Context, *injector) error
}

var drills = []drill{
	{
		"drain", // of a domain node and a gateway, whose processes stay
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
		"roll", // of all nodes, each of which is away for as long as a machine takes to start another program
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
		"kill", // of a domain node, which service discovery forgets
		func(_ context.Context, in *injector) error { in.world.node("n1").kill(); return nil },
		func(ctx context.Context, in *injector) error {
			n := in.world.node("n1")
			return errors.Join(n.start(), n.awaitReady(ctx))
		},
	},
	{
		"partition", // of a domain node from all other nodes, but not from database and Prometheus
		func(_ context.Context, in *injector) error {
			return in.cut(schedule.Fault{Kind: schedule.CutPeers, Node: "n1"})
		},
		func(_ context.Context, in *injector) error { in.world.network.Heal(); return nil },
	},
	{
		"pair", // of a domain node and a gateway, which others still reach
		func(_ context.Context, in *injector) error {
			return in.cut(schedule.Fault{Kind: schedule.CutPair, Node: "n1", Peer: "g1"})
		},
		func(_ context.Context, in *injector) error { in.world.network.Heal(); return nil },
	},
	{
		"disk", // of the database is full
		func(_ context.Context, in *injector) error { return fill(in.world.smallDisk) },
		func(_ context.Context, in *injector) error { return os.Remove(ballast(in.world.smallDisk)) },
	},
}

func (in *injector) cut(f schedule.Fault) error {
	for way, rule := range in.rules(f) {
		in.world.network.Set(way[0], way[1], rule)
	}
	return nil
}

// record goes through the drills, with a load of clients as applications are,
// and writes the series into a file.
func (c config) record(ctx context.Context, w *world, file string) error {
	if w.network == nil {
		return errors.New("the drills cut nodes off: run them as root on Linux, and without -loopback")
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

// command sends one command after another, each until its outcome is known.
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

// alerted are the metrics that the rules read, each with the buckets or codes
// that they pick. Some gauges that say nothing about these drills are left out.
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

// recorder is a Prometheus that only remembers.
type recorder struct {
	world  *world
	wanted map[string][]string // see alerted
	began  time.Time
	notes  []string

	scrapes int                 // so far
	series  map[string][]string // a value for each scrape; "_" where there is none
}

func (r *recorder) note(what string) {
	r.notes = append(r.notes, fmt.Sprintf("%v %s", time.Since(r.began).Round(time.Second), what))
	say("%s", what)
}

func (r *recorder) drill(ctx context.Context, in *injector, d drill) error {
	sleep(ctx, drillBefore)
	r.note(d.name + " begins")
	at := time.Now()
	if err := d.begin(ctx, in); err != nil {
		return err
	}
	r.note(d.name + " is done")
	sleep(ctx, drillFor-time.Since(at))
	if d.mend != nil {
		r.note("mended")
		if err := d.mend(ctx, in); err != nil {
			return err
		}
	}
	if err := r.world.awaitSettled(ctx, readyWithin); err != nil {
		return err
	}
	r.note("whole again")
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

// scrape asks all nodes whose process runs: service discovery, such as the DNS
// of containers, forgets the others.
func (r *recorder) scrape() {
	answers := make([]map[string]string, len(r.world.nodes))
	var all sync.WaitGroup
	for i, n := range r.world.nodes {
		all.Go(func() {
			select {
			case <-n.process().done:
			default:
				answers[i] = r.ask(n)
			}
		})
	}
	all.Wait()
	for _, answer := range answers {
		for name, value := range answer {
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

// ask scrapes a node. The result has up, and nothing else if it does not answer.
func (r *recorder) ask(n *node) map[string]string {
	instance := fmt.Sprintf(`job="ganglion",instance=%q`, n.name)
	answer := map[string]string{"up{" + instance + "}": "0"}
	http := http.Client{Timeout: scrapeEvery / 2, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := http.Get("http://" + n.listen + "/metrics")
	if err != nil {
		return answer
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return answer
	}
	answer["up{"+instance+"}"] = "1"
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
			answer[name+"{"+instance+labels+"}"] = strconv.FormatFloat(float64(int64(value*10+0.5))/10, 'f', -1, 64)
		}
	}
	return answer
}

// write puts the series in the place of those of the drill in the file.
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
			continue // it was never anything but 0, of which no rule makes an alert
		}
		fmt.Fprintf(&b, "      - {series: '%s', values: '%s'}\n", series, notation(values))
	}
	return os.WriteFile(file, []byte(b.String()+rest), 0o644)
}

// notation is promtool's: a value that is repeated is written once, with how
// often it follows itself. A gap is written with how long it is.
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

// fill leaves no free byte on a disk.
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

// useSmallDisk moves the log to a disk of its own that can be filled.
func (w *world) useSmallDisk(ctx context.Context) error {
	dir := filepath.Join(w.server.Dir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := mount(dir, smallDiskMiB); err != nil {
		return fmt.Errorf("a disk to fill: %w", err)
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
