// Package aggregate is the programming model.
package aggregate
