package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// maxSeedLine bounds a line of a seed file, in bytes.
	maxSeedLine = 1 << 20
	// maxSeedLines bounds the commands of a seed file, which are in memory.
	maxSeedLines = 100_000
)

// seedCommand is a line of a seed file.
type seedCommand struct {
	Client    string          `json:"client"`
	Claims    map[string]any  `json:"claims"`
	Aggregate string          `json:"aggregate"`
	Command   string          `json:"command"`
	Data      json.RawMessage `json:"data"`

	line   int
	key    string
	stream eventstore.StreamID
}

// readSeed reads a seed file; it returns nothing for "". The error names the first
// line that the catalog's aggregates could not execute. A command's key is made of
// its line, and of the number of equal lines before it, so that a file which gained
// lines sends only these.
func readSeed(name string, catalog *aggregate.Catalog) ([]seedCommand, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, usagef("can't read --seed: %w", err)
	}
	defer file.Close()
	var commands []seedCommand
	equal := map[[sha256.Size]byte]int{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxSeedLine)
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		c := seedCommand{line: n}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		err := d.Decode(&c)
		if err == nil && d.More() {
			err = errors.New("text follows the object")
		}
		if err == nil {
			c.stream, err = eventstore.ParseStreamID(c.Aggregate)
		}
		if err == nil && c.Command == "" {
			err = errors.New("the member command is missing")
		}
		if c.Data == nil {
			c.Data = json.RawMessage("{}")
		}
		if err == nil {
			_, err = catalog.CheckCommand(c.stream.Type, c.Command, c.Data)
		}
		switch {
		case err != nil:
			return nil, usagef("%s, line %d: %w: write {\"client\":…, \"aggregate\":\"TYPE/ID\", \"command\":…, \"data\":{…}}", name, n, err)
		case len(commands) == maxSeedLines:
			return nil, usagef("%s has more than %d commands", name, maxSeedLines)
		}
		hash := sha256.Sum256(text)
		c.key = fmt.Sprintf("seed-%s-%d", base64.RawURLEncoding.EncodeToString(hash[:16]), equal[hash])
		equal[hash]++
		commands = append(commands, c)
	}
	if err := lines.Err(); err != nil {
		return nil, usagef("can't read --seed %s: %w: a line has at most %d bytes", name, err, maxSeedLine)
	}
	return commands, nil
}

// token returns the token of the command's client in development mode.
func (c seedCommand) token() string {
	if c.Claims == nil {
		return "dev:" + c.Client
	}
	claims, err := json.Marshal(c.Claims)
	if err != nil {
		panic(err) // they were JSON
	}
	return "dev:" + c.Client + " " + string(claims)
}

// playSeed sends the commands in order, each after the answer to the one before. It
// logs commands that fail, and continues.
func playSeed(ctx context.Context, url string, commands []seedCommand, log *slog.Logger) {
	executed, before, failed := 0, 0, 0
	for len(commands) > 0 && ctx.Err() == nil {
		flags := gatewayFlags{URLs: []string{url}, Token: commands[0].token()}
		n := 0 // commands of this client in a row
		err := flags.connect(ctx, log, true, func(ctx context.Context, gateway *client.Client, start func()) error {
			start()
			for n < len(commands) && commands[n].token() == flags.Token {
				c := commands[n]
				n++
				result, err := gateway.Aggregate(c.stream.Type, c.stream.ID).Send(ctx, c.Command, c.Data, client.WithKey(c.key))
				switch {
				case ctx.Err() != nil:
					return err
				case err != nil:
					failed++
					log.Warn("a command of the seed failed", "line", c.line, "stream", c.Aggregate, "command", c.Command, "err", refusal(err))
				case result.Replayed:
					before++
				default:
					executed++
				}
			}
			return nil
		})
		if err != nil && ctx.Err() == nil { // the gateway refused the client
			failed++
			log.Warn("a client of the seed was refused", "line", commands[0].line, "client", commands[0].Client, "err", err)
			n = max(n, 1)
		}
		commands = commands[n:]
	}
	if total := executed + before + failed; total > 0 && ctx.Err() == nil {
		log.Info("the seed was sent", "executed", executed, "before", before, "failed", failed)
	}
}
