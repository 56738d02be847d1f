package cli

import (
	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/shim"
)

const completionHelp = `Print a completion script for a shell.

  bash   usernet completion bash > ~/.local/share/bash-completion/completions/usernet
  zsh    usernet completion zsh > "${fpath[1]}/_usernet"
  fish   usernet completion fish > ~/.config/fish/completions/usernet.fish

The script for bash needs the package bash-completion.`

func (a *app) completionCommand(root *cobra.Command) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print a completion script for a shell",
		Long:      completionHelp,
		ValidArgs: shells,
		Args:      exactArgs(1, "one of bash, zsh and fish"),
		RunE: func(_ *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdio.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.stdio.Out)
			case "fish":
				return root.GenFishCompletion(a.stdio.Out, true)
			}
			return usagef("no completion for %q; there is one for bash, zsh and fish", args[0])
		},
	}
}

// completeFlags completes the values of the flags that have a fixed set of them, and files.
func (a *app) completeFlags(cmd *cobra.Command) {
	fixed := map[string][]string{
		"map":        {string(shim.MapRoot), string(shim.MapKeep), string(shim.MapAuto)},
		"log-level":  {"debug", "info", "warn", "error"},
		"log-format": {"text", "json"},
		"format":     {"json"},
	}
	for name, values := range fixed {
		if cmd.Flags().Lookup(name) != nil {
			// An error would mean that the flag does not exist.
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	for _, name := range []string{"publish", "name", "subnet", "ip", "ip6", "mac-address", "mtu", "dns", "add-host",
		"outbound-addr", "outbound-addr6", "hostname", "dns-search", "dns-option", "env", "interface", "ready-fd"} {
		if cmd.Flags().Lookup(name) != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
		}
	}
	if cmd.Flags().Lookup("workdir") != nil {
		_ = cmd.MarkFlagDirname("workdir")
	}
}
