package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// restore replaces the log of the cluster with an older one, with the commands of
// docs/postgresql.md. It checks what nodes show before and after the loss is
// accepted, and that exactly the lost commands are missing.
func (l *load) restore(ctx context.Context) error {
	c := l.connect()
	defer c.Close()
	send := func(id string) error {
		_, err := counters.Aggregate(c, id).Send(ctx, "add", add{By: 1}, ganglion.WithKey(id))
		return err
	}
	dump, swap, accept, lost, err := documentedRestore()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "restore")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	shell := func(script string) (string, error) {
		script = strings.ReplaceAll(script, "ganglion.dump", filepath.Join(dir, "ganglion.dump"))
		return output(ctx, "bash", "-euo", "pipefail", "-c", script)
	}
	gateways, err := containers(ctx, "gateway")
	if err != nil {
		return err
	}

	if err := send("restore-kept"); err != nil {
		return err
	}
	if _, err := shell(dump); err != nil {
		return err
	}
	if err := send("restore-lost"); err != nil {
		return err
	}
	if _, err := shell(swap); err != nil {
		return err
	}
	for _, id := range gateways {
		if err := errors.Join(
			prints(ctx, "the log went back", "docker", "logs", id),
			prints(ctx, "the log went back", "docker", "exec", id, "/ganglion", "healthcheck"),
		); err != nil {
			return err
		}
	}
	accepted, err := shell(accept)
	if err != nil {
		return err
	}
	at := regexp.MustCompile(`position (\d+)`).FindStringSubmatch(accepted)
	if at == nil {
		return fmt.Errorf("accept-loss does not print the position at which the log ends: %s", accepted)
	}
	listed, err := shell(strings.Replace(lost, "--cursor P", "--cursor "+at[1], 1))
	if err != nil {
		return err
	}
	if !strings.Contains(listed, "restore-lost") || strings.Contains(listed, "restore-kept") {
		return fmt.Errorf("after position %s the lost log has: %s", at[1], listed)
	}
	for _, id := range gateways {
		if err := healthy(ctx, id); err != nil {
			return err
		}
	}
	// A lost command is executed when it is sent again.
	for id, version := range map[string]uint64{"restore-kept": 1, "restore-lost": 0} {
		s, err := counters.Aggregate(c, id).Get(ctx, ganglion.Strong())
		if err != nil || s.Version != version {
			return fmt.Errorf("%s has version %d, want %d: %w", id, s.Version, version, err)
		}
	}
	return send("restore-lost")
}

// documentedRestore returns the commands of docs/postgresql.md for the backup, its
// restore, the acceptance of the loss, and a list of the lost events.
func documentedRestore() (dump, swap, accept, lost string, err error) {
	page, err := os.ReadFile("docs/postgresql.md")
	if err != nil {
		return "", "", "", "", err
	}
	block := regexp.MustCompile("(?s)In the compose file, with nodes that run:\n\n```\n(.*?)\n\n(.*?)(deploy/cluster.sh ganglion log accept-loss[^\n]*\n)(.*?)```").FindStringSubmatch(string(page))
	if block == nil {
		return "", "", "", "", errors.New("docs/postgresql.md no longer has the commands that restore an older log")
	}
	return block[1], block[2], block[3], block[4], nil
}
