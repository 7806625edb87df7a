// Command shoal-controlplane is a whole Kubernetes control plane in one binary: the real etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler as subcommands. Tests, the demo and `python -m e2e.devcluster` start it
// on loopback; it needs no root and no containers.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// components builds each Kubernetes component's own command; etcd takes its arguments directly.
var components = map[string]func() *cobra.Command{
	"apiserver":          apiserver.NewAPIServerCommand,
	"controller-manager": controllermanager.NewControllerManagerCommand,
	"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	name := os.Args[1]
	if name == "etcd" {
		etcdmain.Main(append([]string{"etcd"}, os.Args[2:]...))
		return
	}
	build, known := components[name]
	if !known {
		usage()
	}
	os.Args = append([]string{name}, os.Args[2:]...)
	os.Exit(cli.Run(build()))
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: shoal-controlplane etcd|apiserver|controller-manager|scheduler [flags]")
	os.Exit(2)
}
