package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
	"github.com/ganglion-es/ganglion/test/chaos/load"
	"github.com/ganglion-es/ganglion/test/chaos/network"
	"github.com/ganglion-es/ganglion/test/chaos/schedule"
	"github.com/ganglion-es/ganglion/test/harness"
)

const (
	// readyWithin bounds the start of a node, exitWithin its drain. A node that
	// ends during its start is restarted after restartAfter.
	readyWithin  = 30 * time.Second
	exitWithin   = 30 * time.Second
	restartAfter = 500 * time.Millisecond
	// settleWithin bounds the time until the nodes agree after a fault, as
	// docs/guarantees.md promises; settleBusy is the bound with the race detector and on
	// a machine of CI, which may be busy. The rig checks every settleEvery.
	settleWithin = 10 * time.Second
	settleBusy   = 30 * time.Second
	settleEvery  = 50 * time.Millisecond
)

// The hosts that are not nodes.
const (
	clientsHost = "clients"
	storeHost   = "store"
)

// members are those of the consumer group, each with an address of its own.
var members = []string{"m1", "m2", "m3", "m4"}

// world is a cluster with its database and its network.
type world struct {
	dir     string // logs, the binary, clock files
	binary  string
	network *network.Network // nil on loopback
	server  *postgrestest.Server
	store   string
	nodes   []*node
	join    string
	// smallDisk is the folder of a disk that has only the log; empty unless a drill
	// fills it.
	smallDisk string
	// release is that of the program that nodes run from their next start on, and past
	// the head of the log when it was 0 for the last time.
	release int
	past    eventstore.Position
	// settle is settleWithin or settleBusy.
	settle time.Duration
}

// node is a node of the cluster, which may be restarted.
type node struct {
	world           *world
	name            string
	domain, gateway bool

	listen, peers, gossip string
	log                   *os.File

	mu    sync.Mutex
	run   *process // the newest
	count int      // of runs
}

// process is one run of a node.
type process struct {
	cmd   *exec.Cmd
	ready chan struct{}
	done  chan struct{}
	err   error
}

// newWorld starts a database and the nodes, and waits until the nodes agree. With
// smallDisk the log has its own disk, and the nodes run ganglion; otherwise they run
// package program, built with flags, and two of their clocks are wrong.
func newWorld(ctx context.Context, dir string, race, loopback, smallDisk bool, flags ...string) (_ *world, err error) {
	w := &world{dir: dir, settle: settleWithin}
	if race || os.Getenv("CI") != "" {
		w.settle = settleBusy
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	w.nodes = []*node{
		{name: "n1", domain: true},
		{name: "n2", domain: true},
		{name: "n3", domain: true, gateway: true},
		{name: "g1", gateway: true},
		{name: "g2", gateway: true},
	}
	for _, n := range w.nodes {
		n.world = w
	}
	if smallDisk {
		w.binary, err = harness.Build(dir, race)
	} else {
		w.binary = filepath.Join(dir, "program")
		err = harness.BuildProgram(w.binary, "./test/chaos/program", race, flags...)
		for node, offset := range map[string]string{"n2": "-30s", "n3": "30s"} {
			err = errors.Join(err, os.WriteFile(w.node(node).clockFile(), []byte(offset), 0o644))
		}
	}
	if err != nil {
		return nil, err
	}
	if !loopback {
		names := make([]string, len(w.nodes))
		for i, n := range w.nodes {
			names[i] = n.name
		}
		if w.network, err = network.New(append([]string{clientsHost, storeHost}, members...), names); err != nil {
			say("no network namespaces (%v): all nodes are on loopback, and cuts and slow links are NOT tested", err)
		}
	}
	if err := w.startStore(ctx, smallDisk); err != nil {
		return nil, err
	}
	var seeds []string
	for _, n := range w.nodes {
		if err := n.place(); err != nil {
			return nil, err
		}
		seeds = append(seeds, n.gossip)
	}
	w.join = strings.Join(seeds, ",")
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	for _, n := range w.nodes {
		if err := n.awaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return w, w.awaitSettled(ctx, readyWithin)
}

// startStore starts PostgreSQL on the network of the nodes. PostgreSQL does not
// wait for the disk, so that measured waits are Ganglion's and not the disk's.
// No writes are lost: only its process crashes, and the operating system keeps
// its writes.
func (w *world) startStore(ctx context.Context, smallDisk bool) (err error) {
	database := "postgres"
	opts := postgrestest.Options{Settings: map[string]string{"track_commit_timestamp": "on"}}
	if w.network != nil {
		access := filepath.Join(w.dir, "pg_hba.conf")
		if err := os.WriteFile(access, []byte("local all all trust\nhost all all all trust\n"), 0o644); err != nil {
			return err
		}
		opts.Settings["listen_addresses"], opts.Settings["hba_file"] = "127.0.0.1,"+w.network.Addr(storeHost), access
	}
	if w.server, err = postgrestest.StartServer(ctx, opts); err != nil {
		return err
	}
	if smallDisk {
		if err := w.useSmallDisk(ctx); err != nil {
			return err
		}
		database = "small"
	}
	w.store = w.server.URL(database)
	if w.network != nil {
		_, port, err := net.SplitHostPort(w.server.Addr())
		if err != nil {
			return err
		}
		w.store = w.server.URLAt(net.JoinHostPort(w.network.Addr(storeHost), port), database)
	}
	return nil
}

func (w *world) cluster() schedule.Cluster {
	c := schedule.Cluster{Network: w.network != nil, Members: members}
	for _, n := range w.nodes {
		if n.domain {
			c.Owners = append(c.Owners, n.name)
		} else {
			c.Gateways = append(c.Gateways, n.name)
		}
	}
	return c
}

func (w *world) gateways() (all []load.Gateway) {
	for _, n := range w.nodes {
		if n.gateway {
			all = append(all, load.Gateway{Name: n.name, URL: "ws://" + n.listen})
		}
	}
	return all
}

// upgrade makes nodes run another release from their next start on: 1 after 0, and then
// 2 and 1 in turn.
func (w *world) upgrade(ctx context.Context) error {
	if w.release > 0 {
		w.release = 3 - w.release
		return nil
	}
	log, err := readLog(ctx, w)
	if n := len(log); n > 0 {
		w.past = log[n-1].Position
	}
	w.release = 1
	return err
}

func (w *world) members() (all []load.Member) {
	for _, name := range members {
		m := load.Member{Name: name}
		if w.network != nil {
			m.Addr = w.network.Addr(name)
		}
		all = append(all, m)
	}
	return all
}

func (w *world) node(name string) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == name })]
}

// place selects the addresses of a node for all its runs.
func (n *node) place() (err error) {
	if w := n.world.network; w != nil {
		n.listen, n.peers, n.gossip = w.Addr(n.name)+":8080", w.Addr(n.name)+":9080", w.Addr(n.name)+":7946"
	} else {
		n.peers = "127.0.0.1:0"
		for _, addr := range []*string{&n.listen, &n.gossip} {
			port, err := ports.Reserve(1)
			if err != nil {
				return err
			}
			*addr = fmt.Sprint("127.0.0.1:", port)
		}
	}
	n.log, err = os.Create(filepath.Join(n.world.dir, n.name+".log"))
	return err
}

func (n *node) clockFile() string { return filepath.Join(n.world.dir, n.name+".clock") }

// start starts the process without waiting until it is ready.
func (n *node) start() error {
	var roles []string
	if n.domain {
		roles = append(roles, "domain")
	}
	if n.gateway {
		roles = append(roles, "gateway")
	}
	p := &process{ready: make(chan struct{}), done: make(chan struct{})}
	p.cmd = exec.Command(n.world.binary, "node", "--name", n.name, "--roles", strings.Join(roles, ","), "--store", n.world.store,
		"--listen", n.listen, "--peer-listen", n.peers, "--gossip-listen", n.gossip, "--join", n.world.join, "--insecure-peers")
	p.cmd.Env = append(os.Environ(), "GANGLION_CLOCK_OFFSET_FILE="+n.clockFile(), "GORACE="+harness.RaceOptions, fmt.Sprint("CHAOS_RELEASE=", n.world.release))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = n.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.count++
	fmt.Fprintf(n.log, "--- run %d of %s\n", n.count, n.name)
	n.mu.Unlock()
	if err := n.launch(p.cmd); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	go func() {
		defer close(p.done)
		announced := false
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "ganglion: ready ") && !announced {
				announced = true
				close(p.ready)
			}
		}
		p.err = p.cmd.Wait()
	}()
	n.mu.Lock()
	n.run = p
	n.mu.Unlock()
	return nil
}

// launch starts a process on the node's host. It does so on a thread that never
// ends, since the kernel sends Pdeathsig when that thread ends.
func (n *node) launch(cmd *exec.Cmd) error {
	if n.world.network != nil {
		return n.world.network.On(n.name, cmd.Start)
	}
	return onThread(cmd.Start)
}

// thread returns a channel of functions, which one thread calls. The thread never
// ends.
var thread = sync.OnceValue(func() chan func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range calls {
			f()
		}
	}()
	return calls
})

func onThread(f func() error) error {
	done := make(chan error)
	thread() <- func() { done <- f() }
	return <-done
}

func (n *node) process() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

func (n *node) signal(s syscall.Signal) error {
	if err := n.process().cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%v to %s: %w", s, n.name, err)
	}
	return nil
}

// kill ends the process with SIGKILL and waits until it has ended.
func (n *node) kill() {
	p := n.process()
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// leave stops the process with SIGTERM. It fails unless the process drains and
// exits with 0.
func (n *node) leave() error {
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	p := n.process()
	select {
	case <-p.done:
	case <-time.After(exitWithin):
		return fmt.Errorf("%s did not end within %v after SIGTERM", n.name, exitWithin)
	}
	if p.err != nil {
		return fmt.Errorf("%s drained and failed: %w", n.name, p.err)
	}
	return nil
}

// awaitReady waits until the node is ready. If the node ends before that because
// the database is down, awaitReady restarts it, as a supervisor does.
func (n *node) awaitReady(ctx context.Context) error {
	timer := time.NewTimer(readyWithin)
	defer timer.Stop()
	for {
		p := n.process()
		select {
		case <-p.ready:
			return nil
		case <-p.done:
		case <-timer.C:
			return fmt.Errorf("%s was not ready within %v", n.name, readyWithin)
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-time.After(restartAfter):
		case <-timer.C:
			return fmt.Errorf("%s ended before it was ready: %w", n.name, p.err)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := n.start(); err != nil {
			return err
		}
	}
}

// dead returns the nodes whose processes have ended unexpectedly.
func (w *world) dead() (names []string) {
	for _, n := range w.nodes {
		select {
		case <-n.process().done:
			names = append(names, n.name)
		default:
		}
	}
	return names
}

// awaitSettled waits until all nodes see each other as ready, agree on the ring,
// and have a link to every domain node and a stream of its events.
func (w *world) awaitSettled(ctx context.Context, within time.Duration) error {
	var err error
	for deadline := time.Now().Add(within); ; {
		if err = w.settled(); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not settled %v after the fault ended: %w", within, err)
		}
		select {
		case <-time.After(settleEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *world) settled() error {
	owners := w.cluster().Owners
	signature := ""
	for _, n := range w.nodes {
		s, err := harness.Status("http://" + n.listen)
		if err != nil {
			return err
		}
		if signature == "" {
			signature = s.Ring.Signature
		}
		if s.State != "ready" || s.Problem != "" {
			return fmt.Errorf("%s is %s %s", n.name, s.State, s.Problem)
		}
		if len(s.Members) != len(w.nodes) {
			return fmt.Errorf("%s sees %d members", n.name, len(s.Members))
		}
		if s.Ring.Signature != signature || s.Ring.Owners != len(owners) {
			return fmt.Errorf("%s has ring %s of %d owners, another node has %s", n.name, s.Ring.Signature, s.Ring.Owners, signature)
		}
		for _, m := range s.Members {
			if m.State != "ready" || m.Ring != signature {
				return fmt.Errorf("%s sees %s %s with ring %s", n.name, m.ID, m.State, m.Ring)
			}
		}
		streams := 0
		for _, stream := range s.Feed.Streams {
			if stream.Healthy {
				streams++
			}
		}
		if streams != len(owners) || len(s.Feed.Streams) != len(owners) {
			return fmt.Errorf("%s has %d healthy streams of %d, of %d owners", n.name, streams, len(s.Feed.Streams), len(owners))
		}
		for _, l := range s.Links {
			if !l.Up {
				return fmt.Errorf("%s has no link to %s", n.name, l.Node)
			}
		}
	}
	return nil
}

// usage has the goroutines and the heap of a process.
type usage struct {
	goroutines int
	heap       int // live bytes after the last garbage collection
}

// usage reads the metrics of a node.
func (n *node) usage() (usage, error) {
	var u usage
	resp, err := harness.HTTP.Get("http://" + n.listen + "/metrics")
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return u, errors.New(resp.Status)
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil:
		case name == "go_goroutines":
			u.goroutines = int(value)
		case name == "go_memstats_next_gc_bytes":
			u.heap = int(value) / 2 // GOGC is 100
		}
	}
	return u, nil
}

// close stops all processes and removes the network.
func (w *world) close() error {
	var errs []error
	for _, n := range w.nodes {
		n.kill()
		if n.log != nil {
			errs = append(errs, n.log.Close())
		}
	}
	if w.smallDisk != "" {
		errs = append(errs, w.server.Crash(), unmount(w.smallDisk))
	}
	if w.server != nil {
		errs = append(errs, w.server.Close())
	}
	if w.network != nil {
		errs = append(errs, w.network.Close())
	}
	return errors.Join(errs...)
}
