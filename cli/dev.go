package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/node"
)

type devCmd struct {
	Listen, Data string
	Origins      []string
	Nodes        int
	Seed         string
	Watch        bool
	UntilEOF     bool // for the process that --watch starts
}

func devCommand(p *program) *cobra.Command {
	var c devCmd
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cluster in one process on an embedded store, for development",
		Long: `Run a cluster in one process on an embedded store, for development.

Any client id is trusted: a client sends it in its hello frame, or as the token dev:ID.
Claims for access rules follow the id as a JSON object:

  {"op":"hello","id":"1","token":"dev:cook {\"role\":\"kitchen\"}"}
  curl -H 'Authorization: Bearer dev:cook {"role":"kitchen"}' …

The node answers only requests whose host is localhost, an IP address or listed in --origins,
so a page on the Internet cannot reach it under the page's own host name (DNS rebinding).

--seed sends the commands of a file once the nodes are ready, one JSON object per line:

  {"client":"ada","aggregate":"auction/42","command":"open","data":{"item":"lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}}

Optional members are claims (an object, for access rules), data and client. Each command is executed once:
a later start with the same log sends only lines that are new.

--watch builds the program that runs this command, and builds and starts it again when its Go files or embedded
files change, also those of other modules of the workspace. A program that does not build leaves the old one
running. The log stays, and clients reconnect. Run it in the folder of the program's module.`,
		Example: `  ganglion dev
  ganglion dev --watch --seed seed.jsonl
  ganglion dev --nodes 3 --data /tmp/try`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Watch {
				return watchProgram(cmd.Context(), os.Args[1:], p.logger())
			}
			return c.run(cmd.Context(), p, cmd.InOrStdin(), p.logger())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "`HOST:PORT` for clients; node i of --nodes listens on PORT+i, counting from 0")
	f.StringVar(&c.Data, "data", "./"+p.options.Name+"-data", "`DIR` of the embedded store")
	f.StringSliceVar(&c.Origins, "origins", nil, originsUsage)
	f.IntVar(&c.Nodes, "nodes", 1, "nodes to run in this process, 1 to 100")
	fromEnvironment(f)
	f.StringVar(&c.Seed, "seed", "", "`FILE` of commands to send, each once: a JSON object per line")
	f.BoolVar(&c.Watch, "watch", false, "build and start the program again when its Go files change")
	f.BoolVar(&c.UntilEOF, "until-eof", false, "")
	hide(f, "until-eof")
	return cmd
}

func (c devCmd) run(ctx context.Context, p *program, in io.Reader, log *slog.Logger) error {
	if c.Nodes < 1 || c.Nodes > 100 {
		return usagef("--nodes is %d: it must be from 1 to 100", c.Nodes)
	}
	seed, err := readSeed(c.Seed, p.catalog)
	if err != nil {
		return err
	}
	relays, err := p.relays()
	if err != nil {
		return err
	}
	intakes, err := p.intakes()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if c.UntilEOF {
		go func() {
			_, _ = io.Copy(io.Discard, in)
			stop()
		}()
	}
	var urls []string
	var seeding sync.WaitGroup
	err = node.RunDev(ctx, node.Config{
		Catalog: p.catalog, Listen: c.Listen, Origins: c.Origins, Store: c.Data, Handler: p.options.Pages, Logger: log,
		Consumers: p.options.Consumers, Memories: p.options.Memories, Clients: p.options.Clients,
		Relays: relays, Intakes: intakes,
		Ready: func(url string) {
			p.printReady(url)
			if urls = append(urls, url); len(urls) < c.Nodes {
				return
			}
			p.printNextSteps(urls)
			seeding.Go(func() { playSeed(ctx, urls[0], seed, log) })
		},
	}, c.Nodes)
	stop()
	seeding.Wait()
	return err
}

// printReady prints the line from which other programs learn that a node is ready.
func (p *program) printReady(url string) { fmt.Println(p.options.Name+": ready", url) }

// printNextSteps prints commands to paste into another terminal. They are for the
// aggregates of cmd/ganglion; a program without auctions prints nothing.
func (p *program) printNextSteps(urls []string) {
	if !p.catalog.HasCommand("auction", "bid") {
		return
	}
	first, last := urls[0], urls[len(urls)-1]
	ws := func(url string) string { return "ws" + strings.TrimPrefix(url, "http") + "/v1/ws" }
	if p.options.Pages != nil {
		fmt.Printf("\nA live auction, for two or more browsers: %s/examples/auction/\n", first)
	}
	fmt.Printf(`
In a second terminal:

  npx -y wscat -c %s -s ganglion.v1
    {"op":"hello","id":"1","client":"ada"}
    {"op":"command","id":"2","aggregate":"auction/42","command":"open","data":{"item":"a lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}}

Watch the events in a third:

  npx -y wscat -c %s -s ganglion.v1
    {"op":"hello","id":"1","client":"bob"}
    {"op":"subscribe","id":"2","stream":"auction/42","after":0}

Or without WebSocket:

  curl -s %s/v1/commands -H 'Authorization: Bearer dev:bob' \
    -d '{"id":"1","aggregate":"auction/42","command":"bid","data":{"amount":1500}}'
  curl -s %s/v1/aggregates/auction/42 -H 'Authorization: Bearer dev:bob'

Stop with Ctrl-C.
`, ws(first), ws(last), first, last)
}
