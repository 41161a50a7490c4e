module github.com/ganglion-es/ganglion/domain

go 1.26.0
