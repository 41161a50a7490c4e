package cli

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/node"
)

// operation has what the commands on one projection or one consumer group share. O has
// their operations on a log.
type operation[O any] struct {
	storeFlags
	p    *program
	name string
	on   func(node.Store) (O, error)
}

func onProcessors(p *program) *operation[*node.Processors] {
	return &operation[*node.Processors]{p: p, on: func(s node.Store) (*node.Processors, error) { return node.OperateProcessors(s, p.catalog) }}
}

func onGroups(p *program) *operation[*node.GroupOperations] {
	return &operation[*node.GroupOperations]{p: p, on: func(s node.Store) (*node.GroupOperations, error) { return node.OperateGroups(s), nil }}
}

// command returns a command that calls do with the operations on a log that exists. own
// may be nil.
func (o *operation[O]) command(use, short, long, example string, own *pflag.FlagSet, do func(context.Context, O) error) *cobra.Command {
	cmd := &cobra.Command{Use: use + " NAME", Short: short, Long: short + ".\n" + long, Example: example}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.name = args[0]
		return o.run(cmd.Context(), o.p.logger(), do)
	}
	f := cmd.Flags()
	o.storeFlags.addTo(f)
	fromEnvironment(f)
	if own != nil {
		f.AddFlagSet(own)
	}
	return cmd
}

// run opens the log to write it.
func (o *operation[O]) run(ctx context.Context, log *slog.Logger, do func(context.Context, O) error) error {
	store, err := o.openExisting(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	operations, err := o.on(store)
	if err != nil {
		return err
	}
	return do(ctx, operations)
}
