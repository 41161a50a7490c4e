package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// drills returns operators' mistakes, exhausted resources and changes in several
// steps. During each, every writer's commands must continue, and a log line or
// command must show the problem as docs/runbooks.md describes it.
func (l *load) drills(ctx context.Context) ([]step, error) {
	gateways, err := containers(ctx, "gateway")
	if err != nil {
		return nil, err
	}
	domains, err := containers(ctx, "domain")
	if err != nil {
		return nil, err
	}
	return []step{
		{what: "a gateway with another cluster's name", do: func() error { return lostGateway(ctx, gateways[0]) }},
		{what: "new keys of gossip, in three steps", do: func() error { return newGossipKey(ctx, append(gateways, domains...)) }},
		{what: "a new secret of tokens, in three steps", do: func() error { return l.newTokenSecret(ctx) }},
		{what: "a domain node whose clock is an hour ahead", do: func() error { return wrongClock(ctx, domains[0], gateways[0]) }},
		{what: "a gateway with 120 file descriptors", do: func() error { return fewDescriptors(ctx, gateways[0]) }},
		{what: "a full disk of the database, in a separate cluster", do: func() error { return fullDisk(ctx) }},
	}, nil
}

// twin starts one more node with the image, the settings and the secrets of a
// container, and with args for "docker create". It returns its id, and a function
// that removes it.
func twin(ctx context.Context, of string, args ...string) (id string, remove func() error, err error) {
	image, err := output(ctx, "docker", "inspect", "-f", "{{.Config.Image}}", of)
	if err != nil {
		return "", nil, err
	}
	settings, err := output(ctx, "docker", "inspect", "-f", `{{range .Config.Env}}{{println .}}{{end}}`, of)
	if err != nil {
		return "", nil, err
	}
	create := []string{"create", "--volumes-from", of, "--network", os.Getenv("COMPOSE_PROJECT_NAME") + "_back", "--network-alias", "peers"}
	for line := range strings.Lines(settings) {
		if setting := strings.TrimSpace(line); setting != "" {
			create = append(create, "-e", setting)
		}
	}
	if id, err = output(ctx, "docker", append(append(create, args...), image, "node")...); err != nil {
		return "", nil, err
	}
	remove = func() error { // works even after an interruption
		ctx := context.WithoutCancel(ctx)
		return errors.Join(docker(ctx, "stop", "-t", "60", id), docker(ctx, "rm", "-f", id))
	}
	project := os.Getenv("COMPOSE_PROJECT_NAME")
	err = docker(ctx, "network", "connect", project+"_data", id)
	if strings.Contains(settings, "GANGLION_ROLES=gateway") {
		err = errors.Join(err, docker(ctx, "network", "connect", "--alias", "gateway", project+"_front", id))
	}
	if err = errors.Join(err, docker(ctx, "start", id)); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return id, remove, nil
}

// prints waits until the output of a program contains a text, even if the program
// fails.
func prints(ctx context.Context, text, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		out, _ := exec.CommandContext(ctx, program, args...).CombinedOutput() // some programs are expected to fail
		if strings.Contains(string(out), text) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s %s does not print %q: %.2000s", program, strings.Join(args, " "), text, out)
		}
	}
}

// lostGateway adds a gateway that sees no domain node.
func lostGateway(ctx context.Context, like string) error {
	id, remove, err := twin(ctx, like, "-e", "GANGLION_CLUSTER=misspelled")
	if err != nil {
		return err
	}
	return errors.Join(
		prints(ctx, "no ready domain node has been in sight", "docker", "exec", id, "/ganglion", "healthcheck"),
		prints(ctx, "not serving", "docker", "logs", id),
		remove(),
	)
}

// newGossipKey adds a key, uses it, and removes the old one, as docs/security.md
// describes. After each step it waits until every node has read the keys.
func newGossipKey(ctx context.Context, nodes []string) error {
	for _, s := range []struct {
		line string
		keys int
	}{
		{"head -c 32 /dev/urandom | base64 >>gossip-key", 2},
		{"tac gossip-key >new && mv new gossip-key", 2},
		{"head -n 1 gossip-key >new && mv new gossip-key", 1},
	} {
		before, err := gossipKeys(ctx, nodes[0])
		if err != nil {
			return err
		}
		if err := cluster(ctx, "secrets", s.line); err != nil {
			return err
		}
		for _, id := range nodes {
			if err := until(ctx, fmt.Sprintf("%s does not use the keys of '%s'", name(id), s.line), func() (bool, error) {
				keys, err := gossipKeys(ctx, id)
				return len(keys) == s.keys && strings.Join(keys, " ") != strings.Join(before, " "), err
			}); err != nil {
				return err
			}
		}
	}
	return prints(ctx, "ready", "deploy/cluster.sh", "ganglion", "members")
}

// gossipKeys returns the names of a node's keys, first the one that it uses.
func gossipKeys(ctx context.Context, id string) ([]string, error) {
	out, err := output(ctx, "docker", "exec", id, "/ganglion", "members", "--json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Keys []string `json:"gossip_keys"`
	}
	return status.Keys, json.Unmarshal([]byte(out), &status)
}

// until waits until holds returns true. It fails with the given text.
func until(ctx context.Context, failure string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds()
		if ok && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(errors.New(failure), err)
		}
	}
}

// newTokenSecret replaces the secret that signs tokens. All clients get a token
// signed with the new secret before the old secret is removed. Afterwards, a token
// signed with the old secret must be refused.
func (l *load) newTokenSecret(ctx context.Context) error {
	if err := cluster(ctx, "secrets", `(head -c 48 /dev/urandom | base64 | tr -d "\n="; echo) >>jwt-key`); err != nil {
		return err
	}
	if err := cluster(ctx, "secrets", "tac jwt-key >new && mv new jwt-key"); err != nil {
		return err
	}
	old := l.bearer()
	token, err := output(ctx, "deploy/cluster.sh", "ganglion", "token", "--client", "load", "--expires-in", "1h")
	if err != nil {
		return err
	}
	l.token.Store(&token)
	if err := cluster(ctx, "secrets", "head -n 1 jwt-key >new && mv new jwt-key"); err != nil {
		return err
	}
	return until(ctx, "a token signed with the removed secret is still accepted", func() (bool, error) {
		c, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{l.url}, Token: func(context.Context) (string, error) { return old, nil }})
		if err == nil {
			defer c.Close()
			_, err = counters.Aggregate(c, "1").Get(ctx)
			if ended := c.Err(); ended != nil {
				err = ended
			}
		}
		var refused *ganglion.Error
		if errors.As(err, &refused) && refused.Code == ganglion.CodeUnauthenticated {
			return true, nil
		}
		return false, err
	})
}

// wrongClock adds a node whose clock is wrong.
func wrongClock(ctx context.Context, like, gateway string) error {
	dir, err := os.MkdirTemp("", "clock")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "offset"), []byte("1h"), 0o644)); err != nil {
		return err
	}
	id, remove, err := twin(ctx, like, "-e", "GANGLION_CLOCK_OFFSET_FILE=/clock/offset", "-v", dir+":/clock:ro")
	if err != nil {
		return err
	}
	return errors.Join(
		prints(ctx, "+3600", "docker", "exec", gateway, "/ganglion", "members"),
		prints(ctx, "clock differs", "docker", "logs", gateway),
		prints(ctx, "this node's clock differs", "docker", "logs", id),
		remove(),
	)
}

// fewDescriptors adds a gateway that allows more sessions than open files.
func fewDescriptors(ctx context.Context, like string) error {
	id, remove, err := twin(ctx, like, "--ulimit", "nofile=120:120")
	if err != nil {
		return err
	}
	return errors.Join(prints(ctx, "may open too few files", "docker", "logs", id), remove())
}

// fullDisk fills the disk of a separate database, and empties it again.
func fullDisk(ctx context.Context) (err error) {
	const network = "ganglion-drill"
	cleanup := context.WithoutCancel(ctx)
	databases, err := containers(ctx, "postgres")
	if err != nil {
		return err
	}
	image, err := output(ctx, "docker", "inspect", "-f", "{{.Config.Image}}", databases[0])
	if err != nil {
		return err
	}
	nodes, err := containers(ctx, "domain")
	if err != nil {
		return err
	}
	nodeImage, err := output(ctx, "docker", "inspect", "-f", "{{.Config.Image}}", nodes[0])
	if err != nil {
		return err
	}
	if err := docker(ctx, "network", "create", network); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docker(cleanup, "network", "rm", network)) }()
	project := os.Getenv("COMPOSE_PROJECT_NAME")
	database, err := output(ctx, "docker", "run", "-d", "--network", network, "--network-alias", "database", "--user", "70:70",
		"--tmpfs", "/var/lib/postgresql/data:uid=70,size=200m", "--tmpfs", "/run/postgresql:uid=70", "-v", project+"_secrets-postgres:/secrets:ro",
		"-e", "POSTGRES_USER=ganglion", "-e", "POSTGRES_DB=ganglion", "-e", "POSTGRES_PASSWORD_FILE=/secrets/database-password", "-e", "POSTGRES_INITDB_ARGS=", image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docker(cleanup, "rm", "-f", database)) }()
	id, err := output(ctx, "docker", "run", "-d", "--network", network, "-v", project+"_secrets-domain:/secrets:ro", nodeImage,
		"node", "--listen", ":8080", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0",
		"--store", "postgres://ganglion@database/ganglion?sslmode=disable", "--store-password-file", "/secrets/database-password")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docker(cleanup, "rm", "-f", id)) }()
	if err := healthy(ctx, id); err != nil {
		return err
	}
	add := func() error {
		return docker(ctx, "exec", id, "/ganglion", "bench", "--url", "http://127.0.0.1:8080", "--rate", "20", "--connections", "1", "--duration", "2s", "--timeout", "1s")
	}
	if err := add(); err != nil {
		return err
	}
	const fill = "/var/lib/postgresql/data/fill"
	_ = docker(ctx, "exec", database, "dd", "if=/dev/zero", "of="+fill, "bs=8k") // fails when the disk is full
	return errors.Join(
		until(ctx, "commands succeed with a full disk", func() (bool, error) {
			return add() != nil, nil
		}),
		prints(ctx, "No space left on device", "docker", "logs", id),
		docker(ctx, "exec", database, "rm", fill),
		until(ctx, "commands fail with room on the disk", func() (bool, error) {
			return add() == nil, nil
		}),
	)
}
