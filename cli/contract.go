package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/node/contract"
	"github.com/ganglion-es/ganglion/proto"
)

// sourceFlags select an application and the file for its contract.
type sourceFlags struct{ URL, Out string }

func (f *sourceFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.URL, "url", "", "`URL` of a gateway that runs the application (default the aggregates of this program)")
	fromEnvironment(flags)
	flags.StringVar(&f.Out, "out", "", "`FILE` to write (default standard output)")
}

// schemaBytes bounds the size of a gateway's schema.
const schemaBytes = 16 << 20

func (f sourceFlags) document(ctx context.Context, own *aggregate.Catalog) (*contract.Document, error) {
	if f.URL != "" {
		return fetchDocument(ctx, f.URL)
	}
	if err := own.Err(); err != nil { // what is wrong would be missing in the contract
		return nil, err
	}
	return contract.Of(own)
}

// fetchDocument asks a gateway for the contract of the application that it runs.
func fetchDocument(ctx context.Context, url string) (*contract.Document, error) {
	resp, err := get(ctx, url, "/v1/schema")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s: %s", url, resp.Status, firstLine(resp.Body))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, schemaBytes))
	if err != nil {
		return nil, noAnswer(url, err)
	}
	doc, err := contract.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer as a Ganglion gateway: %w", url, err)
	}
	return doc, nil
}

// fetchAny fetches the contract of the first of several gateways that answers.
func fetchAny(ctx context.Context, urls []string) (*contract.Document, error) {
	var errs []error
	for _, url := range urls {
		doc, err := fetchDocument(ctx, url)
		if err == nil {
			return doc, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
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

func schemaCommand(p *program) *cobra.Command {
	var c schemaCmd
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Write the contract of the aggregates, as JSON Schema or AsyncAPI",
		Example: `  ganglion schema --out schema.json
  ganglion schema --url http://n1:8080 --format asyncapi`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p.catalog) },
	}
	f := cmd.Flags()
	c.sourceFlags.addTo(f)
	f.StringVar(&c.Format, "format", "json", "json for a JSON Schema, asyncapi for an AsyncAPI document with all frames")
	oneOf(cmd, "format", "json", "asyncapi")
	return cmd
}

func (c schemaCmd) run(ctx context.Context, own *aggregate.Catalog) error {
	doc, err := c.document(ctx, own)
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

func genCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: "gen COMMAND", Short: "Generate code for clients"}
	cmd.AddCommand(genTSCommand(p))
	return cmd
}

func genTSCommand(p *program) *cobra.Command {
	var source sourceFlags
	cmd := &cobra.Command{
		Use:     "ts",
		Short:   "Generate TypeScript types for connect<Contract>() of client/js",
		Example: `  ganglion gen ts --url http://n1:8080 --out contract.ts`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc, err := source.document(cmd.Context(), p.catalog)
			if err != nil {
				return err
			}
			return source.write(doc.TypeScript())
		},
	}
	source.addTo(cmd.Flags())
	return cmd
}
