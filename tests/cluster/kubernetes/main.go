// Command kubernetes is every Kubernetes component that the test cluster runs, in one multi-call binary.
//
// One binary links the code that the components share once: 150 MB and one link step in place of six. The
// first argument names the component, the rest are its own flags: `kubernetes kubelet --config=…`.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// components are built only when asked for: building one registers its flags and feature gates globally.
var components = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-proxy":              proxy.NewProxyCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	name, args := os.Args[1], os.Args[1:]
	if name == "etcd" {
		// etcd parses its own arguments and never returns.
		etcdmain.Main(args)
		return
	}
	build, known := components[name]
	if !known {
		usage()
	}
	// cobra reads os.Args when no arguments are set, and the kubelet reads them a second time by itself.
	os.Args = args
	os.Exit(cli.Run(build()))
}

func usage() {
	names := slices.Sorted(maps.Keys(components))
	fmt.Fprintf(os.Stderr, "usage: kubernetes etcd|%s [flags]\n", strings.Join(names, "|"))
	os.Exit(2)
}
