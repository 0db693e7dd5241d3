process BARCODEMAE_INDEX {
    tag "$reference"
    label 'process_medium'

    conda "${moduleDir}/../../environment.yml"
    container "barcodemae:0.1.0"

    input:
    path reference

    output:
    path "barcodemae_reference", emit: reference
    path "versions.yml"        , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    """
    barcodemae index $reference -o barcodemae_reference --threads $task.cpus --quiet $args

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        barcodemae: \$(barcodemae --version | sed 's/barcodemae //')
    END_VERSIONS
    """

    stub:
    """
    mkdir barcodemae_reference
    touch barcodemae_reference/reference.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        barcodemae: \$(barcodemae --version | sed 's/barcodemae //')
    END_VERSIONS
    """
}
