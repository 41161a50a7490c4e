package main

import (
	"os"
	"testing"

	"github.com/ganglion-es/ganglion/domain/domaintest"
	"github.com/ganglion-es/ganglion/node/contract"
)

// TestCatalog runs all scenarios. After a new event or a changed projection, record
// its stored form with "go test -update" and read the difference.
func TestCatalog(t *testing.T) { domaintest.Run(t, &Catalog) }

func TestPageHasTheNewestContract(t *testing.T) {
	if Catalog.Err() != nil {
		t.Fatal("TestCatalog says what is wrong with the catalog")
	}
	doc, err := contract.Of(&Catalog)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("web/src/contract.ts")
	if err != nil {
		t.Fatal(err)
	}
	if string(file) != string(doc.TypeScript()) {
		t.Error("web/src/contract.ts is not current: run go generate")
	}
}
