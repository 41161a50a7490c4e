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

// restore puts an older log in place of the cluster's by the commands of
// docs/operations.md. It looks at what an operator sees before the loss is
// accepted and after, and that what was lost, and nothing else, is gone.
func (l *load) restore(ctx context.Context) error {
	c := l.connect()
	defer c.Close()
	send := func(id string) error {
		_, err := counters.Aggregate(c, id).Send(ctx, "add", add{By: 1}, ganglion.WithKey(id))
		return err
	}
	dump, swap, accept, lost, err := restoreByTheBook()
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
			says(ctx, "the log went back", "docker", "logs", id),
			says(ctx, "the log went back", "docker", "exec", id, "/ganglion", "healthcheck"),
		); err != nil {
			return err
		}
	}
	said, err := shell(accept)
	if err != nil {
		return err
	}
	at := regexp.MustCompile(`position (\d+)`).FindStringSubmatch(said)
	if at == nil {
		return fmt.Errorf("accept-loss does not say at which position the log ends: %s", said)
	}
	listed, err := shell(strings.Replace(lost, "--cursor P", "--cursor "+at[1], 1))
	if err != nil {
		return err
	}
	if !strings.Contains(listed, "restore-lost") || strings.Contains(listed, "restore-kept") {
		return fmt.Errorf("behind position %s of the lost log are: %s", at[1], listed)
	}
	for _, id := range gateways {
		if err := healthy(ctx, id); err != nil {
			return err
		}
	}
	// The command that was lost is executed when it is sent once more.
	for id, version := range map[string]uint64{"restore-kept": 1, "restore-lost": 0} {
		s, err := counters.Aggregate(c, id).Get(ctx, ganglion.Strong())
		if err != nil || s.Version != version {
			return fmt.Errorf("%s has version %d, want %d: %w", id, s.Version, version, err)
		}
	}
	return send("restore-lost")
}

// restoreByTheBook takes the commands from docs/operations.md: for the backup,
// to put it in place, to accept the loss, and to list what was lost.
func restoreByTheBook() (dump, swap, accept, lost string, err error) {
	page, err := os.ReadFile("docs/operations.md")
	if err != nil {
		return "", "", "", "", err
	}
	block := regexp.MustCompile("(?s)In the compose file, with nodes that run:\n\n```\n(.*?)\n\n(.*?)(deploy/cluster.sh ganglion log accept-loss[^\n]*\n)(.*?)```").FindStringSubmatch(string(page))
	if block == nil {
		return "", "", "", "", errors.New("docs/operations.md no longer has the commands that restore an older log")
	}
	return block[1], block[2], block[3], block[4], nil
}
