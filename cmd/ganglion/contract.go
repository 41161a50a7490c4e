package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/node/contract"
	"github.com/ganglion-es/ganglion/proto"
)

// sourceFlags say whose contract, and where it goes.
type sourceFlags struct{ URL, Out string }

func (f *sourceFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.URL, "url", "", "`URL` of a gateway that runs the application; the aggregates of this program if not given.")
	fromEnvironment(flags)
	flags.StringVar(&f.Out, "out", "", "`FILE` to write; standard output if not given.")
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
	Format string
}

func schemaCommand() *cobra.Command {
	var c schemaCmd
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Write what the aggregates take and show, as JSON Schema or AsyncAPI.",
		Example: `  ganglion schema --out schema.json
  ganglion schema --url http://n1:8080 --format asyncapi`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.sourceFlags.addTo(f)
	f.StringVar(&c.Format, "format", "json", "json for a JSON Schema, asyncapi for an AsyncAPI document with the frames.")
	oneOf(cmd, "format", "json", "asyncapi")
	return cmd
}

func (c schemaCmd) run(ctx context.Context) error {
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

func genCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "gen COMMAND", Short: "Write code for clients."}
	cmd.AddCommand(genTSCommand())
	return cmd
}

func genTSCommand() *cobra.Command {
	var source sourceFlags
	cmd := &cobra.Command{
		Use:     "ts",
		Short:   "TypeScript types, for connect<Contract>() of client/js.",
		Example: `  ganglion gen ts --url http://n1:8080 --out contract.ts`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc, err := source.document(cmd.Context())
			if err != nil {
				return err
			}
			return source.write(doc.TypeScript())
		},
	}
	source.addTo(cmd.Flags())
	return cmd
}
