package cli

import "github.com/spf13/cobra"

func (a *app) portCommand() *cobra.Command {
	return &cobra.Command{Use: "port", Run: func(*cobra.Command, []string) {}}
}
func (a *app) psCommand() *cobra.Command {
	return &cobra.Command{Use: "ps", Run: func(*cobra.Command, []string) {}}
}
