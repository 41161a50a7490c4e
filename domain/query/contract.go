package query

import (
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// Access returns who may ask.
func (d *Definition) Access() aggregate.Rule { return d.access }

// Schemas returns the schemas of the query's parameters, and of its rows or the
// answer of a [Func], under "queries.NAME.data", "queries.NAME.row" and
// "queries.NAME.answer". The schemas follow the rules of [aggregate.Definition.Schemas].
func (d *Definition) Schemas(describe aggregate.Describer) map[string]*aggregate.Schema {
	schemas := map[string]*aggregate.Schema{}
	name := "queries." + d.name
	d.params.AddSchema(schemas, name+".data", true, describe)
	if d.IsFunc() {
		shape.OfEncoded(d.result.Type()).AddSchema(schemas, name+".answer", false, describe)
	} else {
		shape.OfEncoded(d.from.RowType()).AddSchema(schemas, name+".row", false, describe)
	}
	return schemas
}
