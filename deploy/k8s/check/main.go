// Command check checks Kubernetes objects against the types of Kubernetes and of
// the Prometheus operator. It finds fields that don't exist, are in the wrong
// place, or have the wrong kind of value. It needs no cluster. check.sh runs it.
// It is a separate module because Kubernetes has large dependencies.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// kinds are the kinds that the base uses. Any other kind is an error until it is
// added here.
var kinds = map[string]func() any{
	"v1/Namespace":                       func() any { return new(corev1.Namespace) },
	"v1/ConfigMap":                       func() any { return new(corev1.ConfigMap) },
	"v1/Service":                         func() any { return new(corev1.Service) },
	"apps/v1/StatefulSet":                func() any { return new(appsv1.StatefulSet) },
	"apps/v1/Deployment":                 func() any { return new(appsv1.Deployment) },
	"policy/v1/PodDisruptionBudget":      func() any { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy": func() any { return new(networkingv1.NetworkPolicy) },

	"monitoring.coreos.com/v1/PodMonitor":     func() any { return new(monitoringv1.PodMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return new(monitoringv1.PrometheusRule) },
}

func main() {
	objects, err := 0, error(nil)
	for _, file := range slices.Sorted(slices.Values(os.Args[1:])) {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		n, wrong := check(file)
		objects += n
		if wrong != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", file, wrong))
		}
	}
	if err == nil && objects == 0 {
		err = errors.New("no objects in the given files")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
	fmt.Printf("check: %d objects are valid\n", objects)
}

func check(file string) (objects int, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		doc, more := docs.Read()
		if errors.Is(more, io.EOF) {
			return objects, err
		}
		if more != nil {
			return objects, errors.Join(err, more)
		}
		var of metav1.TypeMeta
		if wrong := strict.Unmarshal(doc, &of); wrong != nil {
			return objects, errors.Join(err, wrong)
		}
		kind, ok := kinds[of.APIVersion+"/"+of.Kind]
		if !ok {
			err = errors.Join(err, fmt.Errorf("unknown kind %s %s: add it to the kinds in deploy/k8s/check/main.go", of.APIVersion, of.Kind))
			continue
		}
		objects++
		if wrong := strict.UnmarshalStrict(doc, kind()); wrong != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", of.Kind, wrong))
		}
	}
}
