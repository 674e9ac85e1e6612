// etcd's own go.mod replaces modules, which `go install` refuses, so this main stands in for its three lines.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
