// Package scaffold writes a new product: the program in the folder product, which is
// built and tested as a package of this repository, under another name.
package scaffold

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed all:product
var product embed.FS

// hidden are the files of the product whose names would have an effect in this
// repository.
var hidden = map[string]string{
	"go.mod.tmpl":       "go.mod",
	"gitignore.tmpl":    ".gitignore",
	"dockerignore.tmpl": ".dockerignore",
	"npmrc.tmpl":        ".npmrc",
}

// modules are those of Ganglion that a product requires, with their folders in a clone.
var modules = []string{"", "client/go", "domain"}

// Ganglion is the import path of Ganglion's main module.
const Ganglion = "github.com/ganglion-es/ganglion"

// Options describe a product.
type Options struct {
	// Name is that of the program: 1 to 40 lower-case letters, digits and "-".
	Name string
	// Module is its module path.
	Module string
	// Dir is the folder to write, which must be empty or missing.
	Dir string
	// Clone is the folder of a clone of Ganglion to build against. If it is empty, the
	// product requires the released modules of Version, such as v1.2.3.
	Clone, Version string
}

// taken are names that no program can have: that of Ganglion's, and those of the
// folders that the product has where its program is built.
var taken = []string{"ganglion", "testdata", "web"}

var (
	validName   = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)
	validModule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._~-]*(/[a-zA-Z0-9_~-][a-zA-Z0-9._~-]*)*$`)
	release     = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-(alpha|beta|rc)[.0-9]*)?$`)
)

// IsRelease reports whether a version is that of published modules.
func IsRelease(version string) bool { return release.MatchString(version) }

// Check reports what is wrong with the options.
func (o Options) Check() error {
	switch {
	case !validName.MatchString(o.Name):
		return fmt.Errorf("the name %q is not one of a program: use 1 to 40 lower-case letters, digits and -, beginning with a letter, such as my-shop", o.Name)
	case slices.Contains(taken, o.Name):
		return fmt.Errorf("the name %q is taken: choose another, such as my-shop", o.Name)
	case !validModule.MatchString(o.Module):
		return fmt.Errorf("--module %q is not a module path: write one like example.com/%s", o.Module, o.Name)
	case o.Clone == "" && !IsRelease(o.Version):
		return fmt.Errorf("this program (%s) is not a release, whose modules could be downloaded: name a clone of Ganglion with --ganglion DIR, or run the command in one", o.Version)
	case o.Clone != "" && !IsClone(o.Clone):
		return fmt.Errorf("--ganglion %s is not a clone of Ganglion: its go.mod is missing or of another module", o.Clone)
	}
	entries, err := os.ReadDir(o.Dir)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("can't read the folder %s: %w", o.Dir, err)
	case len(entries) > 0:
		return fmt.Errorf("the folder %s is not empty: choose another with --dir", o.Dir)
	}
	return nil
}

// IsClone reports whether a folder is a clone of Ganglion.
func IsClone(dir string) bool {
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	return err == nil && strings.HasPrefix(string(mod), "module "+Ganglion+"\n")
}

// FindClone returns the clone that a folder is in, or "" if it is in none.
func FindClone(dir string) string {
	for {
		if IsClone(dir) {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			return ""
		}
		dir = above
	}
}

// Write checks the options and writes the product.
func Write(o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	words, err := o.words()
	if err != nil {
		return err
	}
	return fs.WalkDir(product, "product", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := product.ReadFile(name)
		if err != nil {
			return err
		}
		folder, base := path.Split(strings.TrimPrefix(name, "product/"))
		if shown, ok := hidden[base]; ok {
			base = shown
		}
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(base, ".sh") {
			mode = 0o755
		}
		return o.write(path.Join(folder, base), words.Replace(string(text)), mode)
	})
}

func (o Options) write(name, text string, mode fs.FileMode) error {
	file := filepath.Join(o.Dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), mode)
}

// words returns what to replace in the product's files. With a clone it also writes
// go.work. Words are replaced, and no template is executed, since text/template
// finds methods by name, so that the linker would keep those of all types.
func (o Options) words() (*strings.Replacer, error) {
	words := []string{
		"diner", o.Name, "Diner", strings.ToUpper(o.Name[:1]) + o.Name[1:], "MODULE", o.Module,
	}
	if o.Clone == "" {
		return strings.NewReplacer(append(words,
			"PREPARE", "go mod tidy",
			"      CHECKOUT\n", "",
			"REQUIRE", o.require(),
			"GANGLION/client/js", strings.TrimPrefix(o.Version, "v"), "GANGLION/client/react", strings.TrimPrefix(o.Version, "v"),
		)...), nil
	}
	clone, err := relative(o.Dir, o.Clone)
	if err != nil {
		return nil, err
	}
	var work strings.Builder
	work.WriteString("go 1.26.0\n\n// The modules of a clone of Ganglion. To use released ones, remove this file and run\n// \"go mod tidy\".\nuse (\n\t.\n")
	for _, m := range modules {
		fmt.Fprintf(&work, "\t%s\n", path.Join(clone, m))
	}
	work.WriteString(")\n")
	if err := o.write("go.work", work.String(), 0o644); err != nil {
		return nil, err
	}
	web := "file:" + path.Join("..", clone)
	if path.IsAbs(clone) {
		web = "file:" + clone
	}
	return strings.NewReplacer(append(words,
		"PREPARE", clone+"/scripts/client-js.sh build # the packages of the page",
		"CHECKOUT", "- run: git clone --depth 1 https://"+Ganglion+" "+clone,
		"REQUIRE", "",
		"GANGLION/client/js", web+"/client/js", "GANGLION/client/react", web+"/client/react",
	)...), nil
}

// require returns the requirements of go.mod on released modules. The workspace of a
// clone needs none.
func (o Options) require() string {
	var b strings.Builder
	b.WriteString("\nrequire (\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "\t%s %s\n", path.Join(Ganglion, m), o.Version)
	}
	b.WriteString(")\n")
	return b.String()
}

// relative returns the path of a clone for a file in dir.
func relative(dir, clone string) (string, error) {
	from, err := resolve(dir)
	if err != nil {
		return "", err
	}
	to, err := resolve(clone)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(from, to)
	if err != nil {
		return filepath.ToSlash(to), nil // on another drive
	}
	return filepath.ToSlash(rel), nil
}

// resolve returns an absolute path without symbolic links. Its last part need not
// exist.
func resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return abs, nil // its folders are made later
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}
