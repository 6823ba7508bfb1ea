// One binary with a real etcd and a real kube-apiserver, for tests: invoked as `etcd` or `kube-apiserver` (through a
// link of that name), it takes the flags of that program.
package main

import (
	"log"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"kpo-cleanup/control-plane/parent"
)

func main() {
	go parent.ExitWith()
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	default:
		log.Fatalf("invoked as %q: link this binary as etcd or kube-apiserver", name)
	}
}
