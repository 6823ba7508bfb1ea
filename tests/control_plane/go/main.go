// One binary with a real etcd and a real kube-apiserver, for tests: called as `etcd` or `kube-apiserver`
// (by a link of that name) it takes that program's own flags.
package main

import (
	"log"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	go exitWithParent()
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	default:
		log.Fatalf("called as %q: link this binary as etcd or kube-apiserver", name)
	}
}

// exitWithParent ends this process and removes its files once the test process that started it is gone,
// even by SIGKILL. It polls, because PR_SET_PDEATHSIG exists on Linux only and follows a thread.
func exitWithParent() {
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
