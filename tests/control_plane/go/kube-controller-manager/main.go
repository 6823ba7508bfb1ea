// A real kube-controller-manager, for tests.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"

	"kpo-cleanup/control-plane/parent"
)

func main() {
	go parent.ExitWith()
	os.Exit(cli.Run(app.NewControllerManagerCommand()))
}
