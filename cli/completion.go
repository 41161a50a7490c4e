package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/node/contract"
)

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes commands and flags in bash, zsh or fish",
		Long:  "Print a script for the shell to read. The script calls this program to complete a word.",
		Example: `  source <(ganglion completion bash)
  source <(ganglion completion zsh)
  ganglion completion fish | source`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			default:
				return root.GenFishCompletion(out, true)
			}
		},
	}
}

// completeTimeout bounds the wait for the contract of a node, since a person waits. It
// is a variable for tests.
var completeTimeout = time.Second

// names returns words of a contract that complete an argument, given the earlier
// arguments.
type names func(doc *contract.Document, args []string) ([]string, cobra.ShellCompDirective)

// completeNames completes the first arguments of a command with names of the
// contract: of the node at --url if it is set and answers, or of this program.
func completeNames(p *program, arguments ...names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(arguments) {
			return nil, cobra.ShellCompDirectiveDefault // of DATA: @FILE
		}
		doc := contractFor(cmd, p)
		if doc == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return arguments[len(args)](doc, args)
	}
}

// contractFor returns the contract whose names complete the words of a command, or
// nil if there is none.
func contractFor(cmd *cobra.Command, p *program) *contract.Document {
	_ = setFromEnvironment(cmd.Flags()) // prepare, which reports errors, does not run for completions
	if url := cmd.Flag("url"); url != nil && url.Changed {
		ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
		defer cancel()
		urls := []string{url.Value.String()}
		if list, ok := url.Value.(pflag.SliceValue); ok {
			urls = list.GetSlice()
		}
		if doc, err := fetchAny(ctx, urls); err == nil {
			return doc
		}
	}
	doc, err := contract.Of(p.catalog)
	if err != nil {
		return nil
	}
	return doc
}

func aggregateTypes(doc *contract.Document, _ []string) ([]string, cobra.ShellCompDirective) {
	types := slices.Sorted(maps.Keys(doc.Aggregates))
	for i := range types {
		types[i] += "/" // the id follows
	}
	return types, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func categoryNames(doc *contract.Document, _ []string) ([]string, cobra.ShellCompDirective) {
	return slices.Sorted(maps.Keys(doc.Aggregates)), cobra.ShellCompDirectiveNoFileComp
}

func commandNames(doc *contract.Document, args []string) ([]string, cobra.ShellCompDirective) {
	typ, _, _ := strings.Cut(args[0], "/")
	return slices.Sorted(maps.Keys(doc.Aggregates[typ].Commands)), cobra.ShellCompDirectiveNoFileComp
}

func queryNames(doc *contract.Document, _ []string) ([]string, cobra.ShellCompDirective) {
	return slices.Sorted(maps.Keys(doc.Queries)), cobra.ShellCompDirectiveNoFileComp
}

// completeFlag completes the value of a flag with names of the contract.
func completeFlag(cmd *cobra.Command, p *program, flag string, complete names) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		doc := contractFor(cmd, p)
		if doc == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(doc, args)
	})
	if err != nil {
		panic(err) // the flag exists, and has no other completion
	}
}
