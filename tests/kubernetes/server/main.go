// SPDX-License-Identifier: Apache-2.0

// One program that is etcd or kube-apiserver, by its first argument: what the tests of bpfence's Kubernetes parts run against.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) > 1 {
		switch name := os.Args[1]; name {
		case "etcd":
			etcdmain.Main(os.Args[1:])
			return
		case "kube-apiserver":
			os.Args = os.Args[1:]
			os.Exit(cli.Run(app.NewAPIServerCommand()))
		}
	}
	fmt.Fprintln(os.Stderr, "usage: server etcd|kube-apiserver ARGUMENT…")
	os.Exit(2)
}
