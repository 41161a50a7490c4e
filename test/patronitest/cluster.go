//go:build linux

package patronitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// readyWithin bounds the time in which the cluster must become healthy. It takes 10 s on an
// idle machine.
const readyWithin = 3 * time.Minute

// Timing of a cluster, in seconds.
type Timing struct{ TTL, LoopWait, RetryTimeout int }

// Cluster is etcd and three servers. Its methods are for one goroutine at a time.
type Cluster struct {
	Etcd    *Machine
	Servers []*Machine

	network *network
	dir     string
	http    *http.Client
}

// password is that of every role.
const password = "secret"

// Start starts a cluster, and waits until it has a primary, with a synchronous standby, and
// another standby. config is the path of patroni.yml. Close it.
func Start(ctx context.Context, config string, timing Timing) (*Cluster, error) {
	c := &Cluster{http: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	if err := c.start(ctx, config, timing); err != nil {
		return nil, errors.Join(err, errors.New(c.Logs()), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, config string, timing Timing) (err error) {
	for _, program := range []string{"patroni", "etcd", "unshare", "nsenter", "setpriv", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: run scripts/install.sh patroni etcd-server iproute2", err)
		}
	}
	binaries, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(binaries) == 0 {
		return errors.New("PostgreSQL is missing: run scripts/install.sh postgresql")
	}
	if c.dir, err = os.MkdirTemp("", "ganglion-patroni"); err != nil {
		return err
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(owner.Uid)
	gid, err2 := strconv.Atoi(owner.Gid)
	if err := errors.Join(err1, err2, os.Chown(c.dir, uid, gid)); err != nil {
		return err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	if text, err = withTiming(text, timing); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("patroni.yml"), text, 0o644); err != nil {
		return err
	}
	if c.network, err = newNetwork(); err != nil {
		return err
	}
	c.Etcd = c.machine("etcd", 10, nil, "etcd", "--data-dir", c.path("etcd"), "--listen-client-urls", "http://0.0.0.0:2379",
		"--advertise-client-urls", "http://"+c.network.prefix+"10:2379", "--listen-peer-urls", "http://127.0.0.1:2380", "--logger", "zap", "--log-level", "warn")
	if err := c.Etcd.Start(); err != nil {
		return err
	}
	for i := 1; i <= 3; i++ {
		name := "db" + strconv.Itoa(i)
		address := c.network.prefix + strconv.Itoa(i)
		for _, dir := range []string{name, name + "-socket"} {
			if err := errors.Join(os.Mkdir(c.path(dir), 0o700), os.Chown(c.path(dir), uid, gid)); err != nil {
				return err
			}
		}
		m := c.machine(name, i, []string{
			"PATRONI_NAME=" + name, "PATRONI_RESTAPI_CONNECT_ADDRESS=" + address + ":8008", "PATRONI_POSTGRESQL_CONNECT_ADDRESS=" + address + ":5432",
			"PATRONI_POSTGRESQL_DATA_DIR=" + c.path(name, "data"), "PATRONI_POSTGRESQL_BIN_DIR=" + filepath.Dir(binaries[len(binaries)-1]),
			"PATRONI_POSTGRESQL_PGPASS=" + c.path(name, "pgpass"), "PATRONI_ETCD3_HOSTS='" + c.Etcd.Address + ":2379'",
			"PATRONI_SUPERUSER_PASSWORD=" + password, "PATRONI_REPLICATION_PASSWORD=" + password, "PATRONI_REWIND_PASSWORD=" + password,
			"PATRONI_RESTAPI_USERNAME=patroni", "PATRONI_RESTAPI_PASSWORD=" + password, "HOME=" + c.path(name), "LC_ALL=C.UTF-8",
		}, "patroni", c.path("patroni.yml"))
		c.Servers = append(c.Servers, m)
		if err := m.Start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return c.Healthy(ctx)
}

// withTiming replaces the timing of a configuration.
func withTiming(config []byte, t Timing) ([]byte, error) {
	for name, value := range map[string]int{"ttl": t.TTL, "loop_wait": t.LoopWait, "retry_timeout": t.RetryTimeout} {
		before, rest, found := bytes.Cut(config, []byte("\n    "+name+": "))
		_, after, ended := bytes.Cut(rest, []byte("\n"))
		if !found || !ended {
			return nil, fmt.Errorf("the configuration of Patroni has no %s", name)
		}
		config = fmt.Appendf(nil, "%s\n    %s: %d\n%s", before, name, value, after)
	}
	return config, nil
}

func (c *Cluster) path(names ...string) string {
	return filepath.Join(append([]string{c.dir}, names...)...)
}

func (c *Cluster) machine(name string, number int, env []string, command ...string) *Machine {
	return &Machine{
		Name: name, Address: c.network.prefix + strconv.Itoa(number), network: c.network, number: number,
		log: c.path(name + ".log"), command: command, env: env,
	}
}

// Address is that of this process in the cluster's network.
func (c *Cluster) Address() string { return c.network.prefix + "254" }

// URL names all servers and a database, for a superuser.
func (c *Cluster) URL(database string) string {
	var hosts []string
	for _, m := range c.Servers {
		hosts = append(hosts, m.Address+":5432")
	}
	return "postgres://postgres:" + password + "@" + strings.Join(hosts, ",") + "/" + url.PathEscape(database) + "?sslmode=disable&target_session_attrs=read-write"
}

// A Member is a server as the cluster describes it.
type Member struct {
	Name, Role, State string
	Timeline          int
}

// Members asks each server for the members of the cluster until one answers.
func (c *Cluster) Members(ctx context.Context) (members []Member, err error) {
	for _, m := range c.Servers {
		var answer struct{ Members []Member }
		if err1 := c.call(ctx, m, http.MethodGet, "cluster", nil, &answer); err1 != nil {
			err = errors.Join(err, err1)
			continue
		}
		return answer.Members, nil
	}
	return nil, err
}

// Primary returns the running server with the leader's key, nil if no server has it.
func (c *Cluster) Primary(ctx context.Context) *Machine {
	for _, m := range c.Servers {
		if c.call(ctx, m, http.MethodGet, "primary", nil, nil) == nil {
			return m
		}
	}
	return nil
}

// AwaitPrimary waits for a primary other than the given one, which may be nil.
func (c *Cluster) AwaitPrimary(ctx context.Context, other *Machine) (*Machine, error) {
	for {
		if m := c.Primary(ctx); m != nil && m != other {
			return m, nil
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("the cluster has no new primary: %w", err)
		}
	}
}

// Synchronous returns the synchronous standby, nil if the cluster has none.
func (c *Cluster) Synchronous(ctx context.Context) *Machine {
	for _, m := range c.Servers {
		if c.call(ctx, m, http.MethodGet, "synchronous", nil, nil) == nil {
			return m
		}
	}
	return nil
}

// Healthy waits until the cluster has a primary and two standbys that follow it. One of
// them is synchronous, unless the cluster is asynchronous.
func (c *Cluster) Healthy(ctx context.Context) error {
	for {
		err := c.healthy(ctx)
		if err == nil {
			return nil
		}
		if ended := pause(ctx); ended != nil {
			return fmt.Errorf("the cluster does not become healthy: %w: %w", ended, err)
		}
	}
}

func (c *Cluster) healthy(ctx context.Context) error {
	primary := c.Primary(ctx)
	if primary == nil {
		return errors.New("it has no primary")
	}
	var config struct {
		Synchronous bool `json:"synchronous_mode"`
	}
	if err := c.call(ctx, primary, http.MethodGet, "config", nil, &config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, "postgres://postgres:"+password+"@"+primary.Address+"/postgres?sslmode=disable")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var streaming, synchronous int
	if err := conn.QueryRow(ctx, `select count(*) filter (where state = 'streaming'), count(*) filter (where sync_state = 'sync')
		from pg_stat_replication`).Scan(&streaming, &synchronous); err != nil {
		return err
	}
	if streaming != 2 || config.Synchronous && (synchronous != 1 || c.Synchronous(ctx) == nil) {
		return fmt.Errorf("%d standbys follow %s, %d are synchronous", streaming, primary.Name, synchronous)
	}
	return nil
}

// Configure changes the configuration in etcd.
func (c *Cluster) Configure(ctx context.Context, change map[string]any) error {
	primary, err := c.AwaitPrimary(ctx, nil)
	if err != nil {
		return err
	}
	return c.call(ctx, primary, http.MethodPatch, "config", change, nil)
}

// Switchover makes another server the primary: the synchronous standby, if the cluster
// has one.
func (c *Cluster) Switchover(ctx context.Context) error {
	primary, err := c.AwaitPrimary(ctx, nil)
	if err != nil {
		return err
	}
	// Patroni answers when the switchover is complete.
	slow := *c.http
	slow.Timeout = time.Minute
	patient := *c
	patient.http = &slow
	return patient.call(ctx, primary, http.MethodPost, "switchover", map[string]any{"leader": primary.Name}, nil)
}

func (c *Cluster) call(ctx context.Context, m *Machine, method, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.Address+":8008/"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.SetBasicAuth("patroni", password)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s of %s: %s: %s", method, path, m.Name, resp.Status, got)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(got, answer)
}

func pause(ctx context.Context) error {
	select {
	case <-time.After(100 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Logs returns the end of each machine's output.
func (c *Cluster) Logs() string {
	paths, _ := filepath.Glob(c.path("*.log")) // the pattern is well-formed
	var all strings.Builder
	for _, path := range paths {
		text, _ := os.ReadFile(path) // one that can't be read is left out
		fmt.Fprintf(&all, "%s:\n%s\n", filepath.Base(path), text[max(0, len(text)-6000):])
	}
	return all.String()
}

// Close ends all machines, and removes their files.
func (c *Cluster) Close() error {
	var errs []error
	for _, m := range append(c.Servers, c.Etcd) {
		if m != nil {
			errs = append(errs, m.Kill())
		}
	}
	if c.network != nil {
		errs = append(errs, c.network.close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}
