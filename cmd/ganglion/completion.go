package main

import kongcompletion "github.com/jotaen/kong-completion"

type completionCmd struct {
	kongcompletion.Completion
}

// Help is what --help says beside the flags.
func (completionCmd) Help() string {
	return `Without --code it says what to write where. The shell then asks this program what may come next.

  ganglion completion bash
  source <(ganglion completion --code zsh)
  ganglion completion --code fish | source`
}
