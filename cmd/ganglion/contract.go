package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/domain/contract"
	"github.com/ganglion-es/ganglion/proto"
)

// sourceFlags say whose contract, and where it goes.
type sourceFlags struct {
	URL string `help:"A gateway that runs the application; the aggregates of this program if not given." env:"GANGLION_URL" placeholder:"URL"`
	Out string `help:"File to write; standard output if not given." placeholder:"FILE"`
}

// schemaBytes bounds what is read from a gateway.
const schemaBytes = 16 << 20

func (f sourceFlags) document(ctx context.Context) (*contract.Document, error) {
	if f.URL == "" {
		return contract.Of(&domain.Catalog)
	}
	resp, err := get(ctx, f.URL, "/v1/schema")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s: %s", f.URL, resp.Status, firstLine(resp.Body))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, schemaBytes))
	if err != nil {
		return nil, noAnswer(f.URL, err)
	}
	doc, err := contract.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer like a Ganglion gateway: %w", f.URL, err)
	}
	return doc, nil
}

func (f sourceFlags) write(text []byte) error {
	if f.Out == "" {
		_, err := os.Stdout.Write(text)
		return err
	}
	return os.WriteFile(f.Out, text, 0o644)
}

type schemaCmd struct {
	sourceFlags
	Format string `help:"json for a JSON Schema, asyncapi for an AsyncAPI document with the frames." enum:"json,asyncapi" default:"json"`
}

// Help is what --help says beside the flags.
func (schemaCmd) Help() string {
	return `  ganglion schema --out schema.json
  ganglion schema --url http://n1:8080 --format asyncapi`
}

func (c schemaCmd) Run(ctx context.Context) error {
	doc, err := c.document(ctx)
	if err != nil {
		return err
	}
	text, err := doc.JSON()
	if c.Format == "asyncapi" {
		text, err = doc.AsyncAPI(proto.AsyncAPI)
	}
	if err != nil {
		return err
	}
	return c.write(text)
}

type genCmd struct {
	TS genTSCmd `cmd:"" name:"ts" help:"TypeScript types, for connect<Contract>() of client/js."`
}

type genTSCmd struct{ sourceFlags }

// Help is what --help says beside the flags.
func (genTSCmd) Help() string {
	return `  ganglion gen ts --url http://n1:8080 --out contract.ts`
}

func (c genTSCmd) Run(ctx context.Context) error {
	doc, err := c.document(ctx)
	if err != nil {
		return err
	}
	return c.write(doc.TypeScript())
}
