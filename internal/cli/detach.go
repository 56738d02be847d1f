package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/usernet/usernet/internal/shim"
)

// run --detach: the same command line is run once more, by a process in a session of its own whose standard files
// are /dev/null. It writes one report to a pipe, when its command runs or when it has failed before, and the
// process that the user started prints it and ends. Nothing else is shared, so nothing of the sandbox keeps the
// user's terminal or pipes open.

// reportFlag tells the second process where its report goes.
const reportFlag = "report-fd"

// maxReport bounds a report in bytes.
const maxReport = 1 << 20

// report is what became of a detached start. Either ID or Error is set.
type report struct {
	ID       string   `json:"id,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Code     int      `json:"code,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// detach runs the command line once more in the background and prints the sandbox's id when its command runs.
func (a *app) detach() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer r.Close()
	const firstExtra = 3
	args := append([]string{a.args[0], "--" + reportFlag + "=" + strconv.Itoa(firstExtra)}, a.args[1:]...)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "usernet"
	cmd.Env, cmd.ExtraFiles = a.env, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	var rep report
	if err := json.NewDecoder(io.LimitReader(r, maxReport)).Decode(&rep); err != nil {
		// It said nothing, so it is gone, or about to go.
		return fmt.Errorf("detach: the sandbox ended before its command ran: %w", errors.Join(err, cmd.Wait()))
	}
	for _, warning := range rep.Warnings {
		a.warn(warning)
	}
	if rep.Error != "" {
		_ = cmd.Wait() // how it ends is in its report
		return &shim.Error{Code: rep.Code, Err: errors.New(rep.Error)}
	}
	if err := cmd.Process.Release(); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	return a.print(rep.ID + "\n")
}

// reporter writes the report of the detached process, once.
type reporter struct{ f *os.File }

func openReporter(fd int) *reporter {
	f := os.NewFile(uintptr(fd), "report")
	syscall.CloseOnExec(fd)
	return &reporter{f}
}

// send writes the report. Nobody to read it is not our failure: whoever asked has gone away.
func (r *reporter) send(rep report) {
	if r == nil || r.f == nil {
		return
	}
	_ = json.NewEncoder(r.f).Encode(rep)
	r.f.Close()
	r.f = nil
}
