// Controlplane is a real Kubernetes control plane in one binary, for lbctl's tests.
//
//	controlplane apiserver           kube-apiserver with etcd inside, RBAC and an audit log
//	controlplane controller-manager  kube-controller-manager, arguments as upstream
//	controlplane proxy               kube-proxy, arguments as upstream
//	controlplane kubectl             kubectl, arguments as upstream
//
// Nothing here is a stand-in: every verb runs the code of the Kubernetes release that go.mod names. Only the comfort is
// ours: `apiserver` needs one folder and one port, says when it is ready, and ends with its parent.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
)

func main() {
	verbs := map[string]func() *cobra.Command{
		"apiserver":          apiserverCommand,
		"controller-manager": manager.NewControllerManagerCommand,
		"proxy":              proxy.NewProxyCommand,
		"kubectl":            kubectl.NewDefaultKubectlCommand,
	}
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: controlplane apiserver|controller-manager|proxy|kubectl [ARGUMENT...]")
		os.Exit(64)
	}
	verb := os.Args[1]
	// Upstream commands read os.Args themselves; they must not see our verb.
	os.Args = append([]string{verb}, os.Args[2:]...)
	os.Exit(cli.Run(verbs[verb]()))
}
