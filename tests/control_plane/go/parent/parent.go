// Package parent ties a server to the test process that started it.
package parent

import (
	"os"
	"strconv"
	"time"
)

// ExitWith ends this process and removes its files once the test process that started it is gone, even by SIGKILL.
// It polls, because PR_SET_PDEATHSIG exists on Linux only and follows a thread.
func ExitWith() {
	parent, err := strconv.Atoi(os.Getenv("CONTROL_PLANE_PARENT"))
	if err != nil {
		return
	}
	for os.Getppid() == parent {
		time.Sleep(200 * time.Millisecond)
	}
	_ = os.RemoveAll(os.Getenv("CONTROL_PLANE_FOLDER"))
	os.Exit(1)
}
