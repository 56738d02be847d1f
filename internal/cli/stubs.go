package cli
import "github.com/spf13/cobra"
func (a *app) attachCommand() *cobra.Command { return &cobra.Command{Use:"attach", Run: func(*cobra.Command, []string){}} }
func (a *app) portCommand() *cobra.Command { return &cobra.Command{Use:"port", Run: func(*cobra.Command, []string){}} }
func (a *app) psCommand() *cobra.Command { return &cobra.Command{Use:"ps", Run: func(*cobra.Command, []string){}} }
func (a *app) doctorCommand() *cobra.Command { return &cobra.Command{Use:"doctor", Run: func(*cobra.Command, []string){}} }
func (a *app) versionCommand() *cobra.Command { return &cobra.Command{Use:"version", Run: func(*cobra.Command, []string){}} }
func (a *app) completionCommand(r *cobra.Command) *cobra.Command { return &cobra.Command{Use:"completion", Run: func(*cobra.Command, []string){}} }
func (a *app) manCommand(r *cobra.Command) *cobra.Command { return &cobra.Command{Use:"gen-man", Run: func(*cobra.Command, []string){}} }
func (a *app) completeFlags(c *cobra.Command) {}
