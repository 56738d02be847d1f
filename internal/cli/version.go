package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			return a.print(fmt.Sprintf("usernet %s%s (%s, %s/%s)\n",
				version.Number, version.Revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH))
		},
	}
}
