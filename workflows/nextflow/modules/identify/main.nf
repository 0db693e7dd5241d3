process BARCODEMAE_IDENTIFY {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/../../environment.yml"
    container "barcodemae:0.1.0"

    input:
    tuple val(meta), path(query)
    path reference

    output:
    tuple val(meta), path("*.tsv"), emit: tsv
    path "versions.yml"           , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    barcodemae identify $query --reference $reference -o ${prefix}.tsv --threads $task.cpus --quiet $args

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        barcodemae: \$(barcodemae --version | sed 's/barcodemae //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.tsv

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        barcodemae: \$(barcodemae --version | sed 's/barcodemae //')
    END_VERSIONS
    """
}
