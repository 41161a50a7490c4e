// Command compose loads the cluster of docker-compose.yml through its load balancer
// while it injects the faults and changes of docs/guarantees.md. Writers send
// commands with the client library and over HTTP, and followers keep every event.
// No command may fail. At the end the log must have the event of each command
// exactly once, in order and at the version of its reply, and every follower must
// have the events of the log.
//
// run.sh starts it. It exits with status 1 at the first broken promise.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// patience bounds each wait for replies to all writers, or for a healthy cluster.
const patience = 2 * time.Minute

func main() {
	url := flag.String("url", "http://127.0.0.1:8080", "`URL` of the load balancer")
	token := flag.String("token", "", "`token` of the clients")
	tag := flag.String("tag", "next", "`tag` of the image to which the nodes are rolled")
	commands := flag.Int("commands", 5000, "minimal `number` of commands")
	plan := flag.String("plan", "long", "faults and changes: long, short (a selection that takes 2 minutes), drills (operators' mistakes and exhausted resources) or restore (an older log)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, newLoad(*plan, *url, *token), *tag, *commands); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf("load: "+format+"\n", args...) }

func run(ctx context.Context, l *load, tag string, commands int) error {
	if l.plan == "restore" { // without writers, which would miss their lost events
		started := time.Now()
		defer l.close()
		if err := l.restore(ctx); err != nil {
			return fmt.Errorf("restore an older log: %w", err)
		}
		say("restored an older log as docs/postgresql.md says, and accepted the loss: %.1f s", time.Since(started).Seconds())
		return nil
	}
	victim, err := owner(ctx, l.shared())
	if err != nil {
		return err
	}
	if err := l.cast(ctx, victim); err != nil {
		return err
	}
	defer l.close()
	group, groupCtx := errgroup.WithContext(ctx)
	for _, f := range l.followers {
		group.Go(func() error { return f.follow(groupCtx) })
	}
	writing, stopWriting := context.WithCancel(groupCtx)
	defer stopWriting()
	writers, writersCtx := errgroup.WithContext(groupCtx)
	for _, w := range l.writers {
		writers.Go(func() error { return w.write(writersCtx, writing) })
	}
	group.Go(func() error {
		writers.Go(func() error {
			defer stopWriting()
			if err := l.disturb(writersCtx, victim, tag); err != nil {
				return err
			}
			return l.until(writersCtx, commands)
		})
		if err := writers.Wait(); err != nil {
			return err
		}
		return l.finish(groupCtx)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	log := &follower{load: l, name: "the log", client: l.followers[0].client}
	if err := log.follow(ctx); err != nil {
		return err
	}
	if err := l.check(ctx, log.got); err != nil {
		return err
	}
	sent := 0
	for _, w := range l.writers {
		sent += len(w.versions)
	}
	say("%d commands: none failed, the log has each event once, in order, at the version of its reply, and %d followers have all events", sent, len(l.followers))
	return nil
}

// disturb executes the steps of the plan. After each step every writer's commands
// must continue.
func (l *load) disturb(ctx context.Context, victim, tag string) error {
	steps, err := l.steps(ctx, victim, tag)
	if err != nil {
		return err
	}
	for _, s := range steps {
		started := time.Now()
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		if err := l.everyone(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		say("%s: %.1f s, %s", s.what, time.Since(started).Seconds(), l.slowest())
	}
	return nil
}

// step is one fault or change of the cluster.
type step struct {
	what  string
	do    func() error
	short bool // part of the short plan
}

// steps returns the steps of the plan.
func (l *load) steps(ctx context.Context, victim, tag string) ([]step, error) {
	switch l.plan {
	case "drills":
		return l.drills(ctx)
	case "long", "short":
	default:
		return nil, fmt.Errorf("unknown plan %q, want long, short, drills or restore", l.plan)
	}
	other, err := owner(ctx, l.writers[0].stream) // cast selects a stream of another owner
	if err != nil {
		return nil, err
	}
	gateways, err := containers(ctx, "gateway")
	if err != nil {
		return nil, err
	}
	databases, err := containers(ctx, "postgres")
	if err != nil {
		return nil, err
	}
	before := os.Getenv("GANGLION_TAG")
	gateway, database := gateways[len(gateways)-1], databases[0]
	all := []step{
		{"do nothing", func() error { return nil }, true},
		{"kill domain node " + victim, func() error { return docker(ctx, "kill", victim) }, true},
		{"start it again", func() error { return errors.Join(docker(ctx, "start", victim), healthy(ctx, victim)) }, true},
		{"pause domain node " + other, func() error { return docker(ctx, "pause", other) }, false},
		{"unpause it", func() error { return errors.Join(docker(ctx, "unpause", other), healthy(ctx, other)) }, false},
		{"pause gateway " + name(gateway), func() error { return docker(ctx, "pause", gateway) }, false},
		{"unpause it", func() error { return errors.Join(docker(ctx, "unpause", gateway), healthy(ctx, gateway)) }, false},
		{"cut gateway " + name(gateway) + " off all networks", func() error { return networks(ctx, "disconnect", gateway) }, false},
		// It gets new addresses, like a machine that moves.
		{"connect it again and restart it", func() error {
			return errors.Join(networks(ctx, "connect", gateway), docker(ctx, "restart", gateway), healthy(ctx, gateway))
		}, false},
		{"restart PostgreSQL", func() error { return errors.Join(docker(ctx, "restart", database), healthy(ctx, database)) }, true},
		{"revoke another client's tokens", func() error { return l.revoke(ctx) }, false},
		{"replace the certificate authority", func() error { return newAuthority(ctx) }, false},
		// The next roll uses the new certificates and the new password.
		{"replace the password of the database", func() error { return newPassword(ctx) }, false},
		{"roll all nodes to ganglion:" + tag, func() error { return roll(ctx, tag) }, false},
		{"roll them back", func() error { return roll(ctx, before) }, false},
		{"scale to four gateways", func() error { return errors.Join(cluster(ctx, "scale", "3", "4"), counted(ctx, "gateway", 4)) }, false},
		{"rebalance sessions to them", func() error { return cluster(ctx, "ganglion", "rebalance-sessions", "--percent", "50") }, false},
		{"scale to two gateways", func() error { return errors.Join(cluster(ctx, "scale", "3", "2"), counted(ctx, "gateway", 2)) }, false},
		{"scale to five domain nodes", func() error { return errors.Join(cluster(ctx, "scale", "5", "2"), counted(ctx, "domain", 5)) }, false},
		{"drain the oldest domain node and scale to three", func() error {
			nodes, err := containers(ctx, "domain")
			if err != nil {
				return err
			}
			return errors.Join(cluster(ctx, "ganglion", "drain", name(nodes[0])), cluster(ctx, "scale", "3", "2"),
				counted(ctx, "domain", 3), removed(ctx, "domain", nodes[0]))
		}, false},
		{"drain a domain node and restart it", func() error {
			nodes, err := containers(ctx, "domain")
			if err != nil {
				return err
			}
			return errors.Join(cluster(ctx, "ganglion", "drain", name(nodes[0])), docker(ctx, "restart", nodes[0]), healthy(ctx, nodes[0]))
		}, true},
	}
	if l.plan == "short" {
		all = slices.DeleteFunc(all, func(s step) bool { return !s.short })
	}
	return all, nil
}

// roll replaces all nodes with the image of a tag, which compose uses from then on.
func roll(ctx context.Context, tag string) error {
	if err := cluster(ctx, "roll", tag); err != nil {
		return err
	}
	return errors.Join(rolled(ctx, tag), os.Setenv("GANGLION_TAG", tag))
}

// rolled returns an error if a node does not run the image of the tag.
func rolled(ctx context.Context, tag string) error {
	for _, service := range []string{"domain", "gateway"} {
		ids, err := containers(ctx, service)
		if err != nil {
			return err
		}
		for _, id := range ids {
			image, err := output(ctx, "docker", "inspect", "-f", "{{.Config.Image}}", id)
			if err != nil {
				return err
			}
			if image != "ganglion:"+tag {
				return fmt.Errorf("%s %s runs %s", service, name(id), image)
			}
		}
	}
	return nil
}

// removed returns an error if a container still exists.
func removed(ctx context.Context, service, container string) error {
	ids, err := containers(ctx, service)
	if err == nil && slices.Contains(ids, container) {
		err = fmt.Errorf("%s %s still exists", service, name(container))
	}
	return err
}

func counted(ctx context.Context, service string, want int) error {
	ids, err := containers(ctx, service)
	if err == nil && len(ids) != want {
		err = fmt.Errorf("%d containers of %s, want %d", len(ids), service, want)
	}
	return err
}

// name returns the name of the node in a container: its host name, the start of the
// container's id.
func name(container string) string { return container[:min(12, len(container))] }

// networks connects the container of a gateway to all its networks, with the aliases
// that compose uses, or disconnects it.
func networks(ctx context.Context, action, gateway string) error {
	project := os.Getenv("COMPOSE_PROJECT_NAME")
	for network, alias := range map[string]string{"front": "gateway", "back": "peers", "data": "gateway"} {
		args := []string{"network", action}
		if action == "connect" {
			args = append(args, "--alias", "gateway", "--alias", alias)
		}
		if err := docker(ctx, append(args, project+"_"+network, gateway)...); err != nil {
			return err
		}
	}
	return nil
}

// healthy waits until a container is healthy.
func healthy(ctx context.Context, container string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		health, err := output(ctx, "docker", "inspect", "-f", "{{.State.Health.Status}}", container)
		if err == nil && health == "healthy" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s is %q: %w", name(container), health, ctx.Err()), err)
		}
	}
}

// owner returns the domain node that owns an aggregate.
func owner(ctx context.Context, aggregate string) (string, error) {
	return output(ctx, "deploy/cluster.sh", "ganglion", "owner", aggregate)
}

func containers(ctx context.Context, service string) ([]string, error) {
	out, err := output(ctx, "deploy/cluster.sh", "compose", "ps", "-q", service)
	if ids := strings.Fields(out); err != nil || len(ids) > 0 {
		return ids, err
	}
	return nil, errors.New("no container of " + strconv.Quote(service))
}

func cluster(ctx context.Context, args ...string) error {
	_, err := output(ctx, "deploy/cluster.sh", args...)
	return err
}

func docker(ctx context.Context, args ...string) error {
	_, err := output(ctx, "docker", args...)
	return err
}

func output(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
