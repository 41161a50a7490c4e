// Package trust holds the secrets with which the nodes of a cluster trust each other:
// certificates for links ([PeerTLS], made by [MakeCerts]) and keys for gossip
// ([GossipKeys]). Their files may be replaced while a node runs. Invalid files change
// nothing and cause a warning, immediately and every 5 minutes.
package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

const (
	// authorityLife and nodeLife are the lifetimes of certificates. A node's is short,
	// since it can be replaced without a restart. To replace an authority is more work.
	authorityLife = 10 * 365 * 24 * time.Hour
	nodeLife      = 365 * 24 * time.Hour
	// clockSkew is how long before the present certificates become valid, for machines
	// whose clocks are slow.
	clockSkew = time.Hour
)

// certName matches node names that are valid file names.
var certName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// MakeCerts writes the files for [PeerTLS] into a folder: an authority (ca.pem,
// ca.key), and for each node a certificate signed by it and its key (n1.pem,
// n1.key), all ECDSA on P-256. It reuses an existing authority, so nodes can be added
// later. It overwrites no file, and only the owner can read the keys. It returns the
// files that it wrote, even if it fails.
func MakeCerts(dir string, nodes []string) (written []string, err error) {
	for _, name := range slices.Sorted(slices.Values(nodes)) {
		if !certName.MatchString(name) || name == "ca" {
			err = errors.Join(err, fmt.Errorf("%q cannot name a certificate: use letters, digits, dots, dashes and underscores, and not ca", name))
		}
	}
	if len(nodes) == 0 {
		err = errors.New("no node is named: name at least one")
	}
	if len(slices.Compact(slices.Sorted(slices.Values(nodes)))) != len(nodes) {
		err = errors.Join(err, errors.New("a node is named twice"))
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range nodes {
		for _, file := range []string{name + ".pem", name + ".key"} {
			if _, err := os.Lstat(filepath.Join(dir, file)); !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s exists: move it away to make a new one", filepath.Join(dir, file))
			}
		}
	}

	authority, err := readAuthority(dir)
	if err != nil {
		return nil, err
	}
	if authority == nil {
		pair, files, err := makeCert(dir, "ca", &x509.Certificate{
			Subject: pkix.Name{CommonName: "Ganglion cluster"}, NotAfter: time.Now().Add(authorityLife),
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		}, nil)
		written = append(written, files...)
		if err != nil {
			return written, err
		}
		authority = pair
	}
	for _, name := range nodes {
		expires := time.Now().Add(nodeLife)
		if authority.Leaf.NotAfter.Before(expires) {
			expires = authority.Leaf.NotAfter
		}
		_, files, err := makeCert(dir, name, &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: expires,
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, authority)
		written = append(written, files...)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// readAuthority reads the authority of a folder. It returns nil if the folder has
// none.
func readAuthority(dir string) (*tls.Certificate, error) {
	cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	_, noCert := os.Stat(cert)
	_, noKey := os.Stat(key)
	if errors.Is(noCert, fs.ErrNotExist) && errors.Is(noKey, fs.ErrNotExist) {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the authority in %s cannot be used: both ca.pem and ca.key are needed: %w", dir, err)
	case !pair.Leaf.IsCA:
		return nil, fmt.Errorf("%s is not the certificate of an authority", cert)
	case time.Now().After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("the authority in %s expired at %s: make a new one in another folder", dir, pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &pair, nil
}

// makeCert makes and writes a key and its certificate, signed by an authority or
// by itself.
func makeCert(dir, name string, template *x509.Certificate, by *tls.Certificate) (*tls.Certificate, []string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.NotBefore = time.Now().Add(-clockSkew)
	parent, signer := template, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	var written []string
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       fs.FileMode
	}{{name + ".key", "PRIVATE KEY", private, 0o600}, {name + ".pem", "CERTIFICATE", cert, 0o644}} {
		path := filepath.Join(dir, f.name)
		if err := writeNew(path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), f.mode); err != nil {
			return nil, written, err
		}
		written = append(written, path)
	}
	leaf, err := x509.ParseCertificate(cert)
	return &tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key, Leaf: leaf}, written, err
}

// writeNew writes and syncs a file that must not exist.
func writeNew(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
