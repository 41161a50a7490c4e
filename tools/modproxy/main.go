// Command modproxy writes modules into a folder in the form of a module proxy, which
// GOPROXY=file://FOLDER reads:
//
//	modproxy -out FOLDER -version v1.2.3 -root DIR [SUBFOLDER…]
//
// DIR is a clean work tree. The modules are those of DIR and of its subfolders.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	out := flag.String("out", "", "folder of the proxy")
	version := flag.String("version", "", "version of all modules")
	root := flag.String("root", ".", "work tree")
	flag.Parse()
	for _, folder := range append([]string{"."}, flag.Args()...) {
		if err := add(*out, *version, filepath.Join(*root, folder)); err != nil {
			fmt.Fprintln(os.Stderr, "modproxy:", err)
			os.Exit(1)
		}
	}
}

// add writes the module of a folder.
func add(out, version, dir string) (err error) {
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	path := modfile.ModulePath(mod)
	escaped, err := module.EscapePath(path)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	files := filepath.Join(out, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, time.Unix(0, 0).UTC()})
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"list": []byte(version + "\n"), version + ".info": info, version + ".mod": mod} {
		if err := os.WriteFile(filepath.Join(files, name), text, 0o644); err != nil {
			return err
		}
	}
	archive, err := os.Create(filepath.Join(files, version+".zip"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	return zip.CreateFromDir(archive, module.Version{Path: path, Version: version}, dir)
}
